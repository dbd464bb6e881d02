from __future__ import annotations

import os
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from expedit_sam.errors import InputError
from expedit_sam.images import find_images, read_image, search_folder


def saved(path: Path, pixels: np.ndarray, mode: str | None = None, **options: object) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def refusal(path: Path) -> str:
    """The one line that says why a file cannot be read; it names the file."""
    with pytest.raises(InputError) as caught:
        read_image(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


# --- kinds of pixels -----------------------------------------------------------------------


def test_rgb_is_read_as_it_is(tmp_path: Path, photo: np.ndarray) -> None:
    image = read_image(saved(tmp_path / "photo.png", photo))
    np.testing.assert_array_equal(image, photo)
    assert image.flags.c_contiguous


@pytest.mark.parametrize("suffix", ["png", "pgm", "tif"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    grey = np.arange(257, 2**15, 257, dtype=np.uint16)[None]  # neither black nor white in it
    image = read_image(saved(tmp_path / f"grey.{suffix}", grey))
    np.testing.assert_array_equal(image, (grey // 257).astype(np.uint8)[..., None].repeat(3, 2))


def test_grey_without_a_range_spans_black_to_white(tmp_path: Path) -> None:
    depth = np.array([[-3.0, 1.0], [2.0, 7.0]], dtype=np.float32)
    image = read_image(saved(tmp_path / "depth.tif", depth))
    assert image[..., 0].tolist() == [[0, 102], [128, 255]]


def test_grey_of_a_tiny_range(tmp_path: Path) -> None:
    metres = np.array([[1e-12, 2e-12]], dtype=np.float32)
    assert read_image(saved(tmp_path / "x.tif", metres))[..., 0].tolist() == [[0, 255]]


def test_grey_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    depth = np.array([[np.nan, 1.0]], dtype=np.float32)
    assert "NaN" in refusal(saved(tmp_path / "depth.tif", depth))


def test_constant_grey_without_a_range_is_read(tmp_path: Path) -> None:
    assert read_image(saved(tmp_path / "flat.tif", np.full((2, 3), 5, np.int32))).shape == (2, 3, 3)


def test_one_bit(tmp_path: Path) -> None:
    image = read_image(saved(tmp_path / "bits.png", np.array([[True, False]])))
    assert image.tolist() == [[[255] * 3, [0] * 3]]


def test_cmyk_looks_like_the_original(tmp_path: Path, photo: np.ndarray) -> None:
    image = read_image(saved(tmp_path / "print.jpg", photo, "CMYK", quality=95))
    assert np.abs(image.astype(int) - photo).mean() < 8


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_laid_on_white(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    suffix = "tif" if mode == "PA" else "png"
    path = tmp_path / f"picture.{suffix}"
    (image if mode == "RGBA" else image.convert(mode)).save(path)
    assert read_image(path).tolist() == [[[0] * 3, [255] * 3]]


def test_half_transparent_is_mixed_with_white(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.new("RGBA", (1, 1), (255, 0, 0, 128)).save(path)
    assert read_image(path)[0, 0].tolist() == [255, 127, 127]


def test_palette(tmp_path: Path) -> None:
    colors = np.array([[[255, 0, 0], [0, 0, 255]]], dtype=np.uint8)
    image = read_image(saved(tmp_path / "two.png", colors, "P"))
    np.testing.assert_allclose(image, colors, atol=8)


def test_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    path = tmp_path / "two.png"
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    image.save(path, transparency=1)
    assert read_image(path).tolist() == [[[255, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    seen = np.zeros((24, 40, 3), np.uint8)
    seen[:8, :8] = 255  # white in the top left corner, as a person is to see it
    undo = {1: seen, 2: seen[:, ::-1], 3: seen[::-1, ::-1], 4: seen[::-1]}
    turned = seen.transpose(1, 0, 2)
    undo |= {5: turned, 6: turned[::-1], 7: turned[::-1, ::-1], 8: turned[:, ::-1]}
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(undo[orientation])
    image = read_image(saved(tmp_path / "turned.jpg", stored, exif=exif, quality=95))
    assert image.shape == seen.shape
    assert np.abs(image.astype(int) - seen).mean() < 8


def test_an_odd_tag_beside_the_orientation_does_no_harm(tmp_path: Path) -> None:
    # Orientation 6, and XResolution as text, which Pillow cannot write back.
    entries = struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHI4s", 0x011A, 2, 3, b"72")
    tags = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4)
    stored = np.zeros((24, 40, 3), np.uint8)
    assert read_image(saved(tmp_path / "odd.jpg", stored, exif=tags)).shape == (40, 24, 3)


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 3), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "moving.gif")[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_thin_images(tmp_path: Path, size: tuple[int, int]) -> None:
    assert (
        read_image(saved(tmp_path / "thin.png", np.zeros((*size, 3), np.uint8))).shape[:2] == size
    )


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_png_survives_unchanged(
    tmp_path_factory: pytest.TempPathFactory, pixels: np.ndarray
) -> None:
    path = saved(tmp_path_factory.mktemp("png") / "image.png", pixels)
    np.testing.assert_array_equal(read_image(path), pixels)


# --- what is no image ----------------------------------------------------------------------


def test_missing(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "missing.jpg")


def test_folder(tmp_path: Path) -> None:
    assert "is a folder" in refusal(tmp_path)


def test_text_renamed(tmp_path: Path) -> None:
    path = tmp_path / "notes.jpg"
    path.write_text("these are notes\n")
    assert "convert it" in refusal(path)


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.jpg"
    path.touch()
    assert "empty" in refusal(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "tif", "webp", "bmp"])
def test_truncated(tmp_path: Path, photo: np.ndarray, suffix: str) -> None:
    whole = saved(tmp_path / f"whole.{suffix}", photo).read_bytes()
    path = tmp_path / f"half.{suffix}"
    path.write_bytes(whole[: len(whole) // 2])
    assert "get it again" in refusal(path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(st.data())
def test_a_damaged_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    suffix = data.draw(st.sampled_from(["jpg", "png", "tif"]))
    path = saved(tmp_path_factory.mktemp("damaged") / f"x.{suffix}", np.zeros((9, 9, 3), np.uint8))
    content = bytearray(path.read_bytes())
    for _ in range(3):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with suppress(InputError):
        assert read_image(path).dtype == np.uint8


def test_large_photographs_are_read_without_a_warning(tmp_path: Path) -> None:
    path = saved(tmp_path / "large.png", np.zeros((90, 120, 3), np.uint8))
    code = f"""if True:
        from PIL import Image
        from expedit_sam.images import read_image

        Image.MAX_IMAGE_PIXELS = 90 * 120 - 1  # stands for 12000x9000
        print(read_image({str(path)!r}).shape)
    """
    # pytest has warnings shown in its own way.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("(90, 120, 3)\n", "")


def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "bomb.png", np.zeros((90, 120, 3), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 90 * 120 // 2 - 1)
    assert "too many pixels" in refusal(path)


def test_a_jpeg_of_very_many_scans(tmp_path: Path) -> None:
    path = tmp_path / "hours.jpg"
    Image.new("L", (90, 120)).save(path, progressive=True)
    content = path.read_bytes()
    last = content[content.rfind(b"\xff\xda") : -2]
    assert read_image(path).shape == (120, 90, 3)
    path.write_bytes(content[:-2] + 500 * last + content[-2:])
    assert "is a JPEG of 506 scans" in refusal(path)


@pytest.mark.parametrize("packed", [False, True])
def test_nothing_that_starts_programs_or_holds_other_files(tmp_path: Path, packed: bool) -> None:
    drawing = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    if packed:  # IPTC, which tells of another size than the image in it has
        fields = {(3, 20): b"\0\x09", (3, 30): b"\0\x09", (3, 60): b"\1\0", (3, 120): b"\5"}
        parts = [*fields.items(), ((8, 10), drawing)]
        drawing = b"".join(
            struct.pack(">BBBH", 0x1C, *key, len(value)) + value for key, value in parts
        )
    (tmp_path / "x.jpg").write_bytes(drawing)
    assert "no image that can be read: convert it" in refusal(tmp_path / "x.jpg")


def test_too_little_memory_is_no_damage(
    tmp_path: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "photo.png", photo)
    monkeypatch.setattr(Image.Image, "load", raise_memory_error)
    assert "needs more memory than there is" in refusal(path)


def raise_memory_error(image: Image.Image) -> None:
    raise MemoryError


# --- finding images ------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    files = ("b.jpg", "a.PNG", "notes.txt", "sub/c.jpeg", ".hidden.jpg", ".git/d.png", "out/e.png")
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


def test_folders_are_searched_in_order(tree: Path) -> None:
    found = [path.relative_to(tree).as_posix() for path in find_images([tree])]
    assert found == ["a.PNG", "b.jpg", "out/e.png", "sub/c.jpeg"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs symbolic links")
def test_links_are_followed_once(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "f.jpg").touch()
    (tree / "sub" / "linked").symlink_to(elsewhere)
    (elsewhere / "round").symlink_to(tree)
    (elsewhere / "again").symlink_to(elsewhere)
    (elsewhere / "itself").symlink_to("itself")
    found = [path.relative_to(tree).as_posix() for path in find_images([tree])]
    assert found == ["a.PNG", "b.jpg", "out/e.png", "sub/c.jpeg", "sub/linked/f.jpg"]
    assert search_folder(tree) == find_images([tree])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_are_passed_over(tree: Path) -> None:
    images = find_images([tree])
    os.mkfifo(tree / "c.png")
    (tree / "d.png").symlink_to("nowhere.png")  # which is to be reported
    assert find_images([tree]) == sorted([*images, tree / "d.png"])


def test_a_locked_folder_is_found_and_reported(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked, scandir = tree / "sub", os.scandir

    def refusing(path: str) -> object:
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert find_images([tree]) == [tree / name for name in ("a.PNG", "b.jpg", "out/e.png", "sub")]
    monkeypatch.setattr(os, "access", lambda path, mode: path != locked)
    monkeypatch.setattr(Path, "open", lambda path, mode: refusing(str(path)))
    assert "cannot be opened: allow reading it" in refusal(locked)


def test_results_are_not_searched(tree: Path) -> None:
    names = {path.name for path in find_images([tree], without=tree / "sub" / ".." / "out")}
    assert names == {"a.PNG", "b.jpg", "c.jpeg"}


def test_a_named_folder_is_searched_even_if_results_go_there(tree: Path) -> None:
    assert [path.name for path in find_images([tree / "out"], without=tree / "out")] == ["e.png"]


def test_a_named_file_is_taken_whatever_its_suffix(tree: Path) -> None:
    assert find_images([tree / "notes.txt"]) == [tree / "notes.txt"]


def test_nothing_is_found_twice(tree: Path) -> None:
    assert len(find_images([tree / "b.jpg", tree, tree / "sub", tree / "sub" / "c.jpeg"])) == 4


def test_patterns_that_the_shell_left_are_expanded(tree: Path) -> None:
    (tree / "sub[1]").mkdir()
    for name in ("d.jpg", "d2.jpg", ".hidden.jpg"):
        (tree / "sub[1]" / name).touch()
    found = find_images([tree / "sub[1]" / "*.jpg", tree / "s?b", tree / "b.jpg"])
    names = [path.relative_to(tree).as_posix() for path in found]
    assert names == ["sub[1]/d.jpg", "sub[1]/d2.jpg", "sub/c.jpeg", "b.jpg"]
    with pytest.raises(InputError, match=r"\*\.png does not exist"):
        find_images([tree / "sub" / "*.png"])


@pytest.mark.skipif(sys.platform == "win32", reason="no name there holds an asterisk")
def test_a_file_of_that_name_is_no_pattern(tree: Path) -> None:
    (tree / "*.jpg").touch()
    assert find_images([tree / "*.jpg"]) == [tree / "*.jpg"]


def test_missing_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.jpg does not exist"):
        find_images([tmp_path / "nothing.jpg"])


def test_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="no images in"):
        find_images([tmp_path])


def test_no_paths() -> None:
    with pytest.raises(InputError, match="no images"):
        find_images([])
