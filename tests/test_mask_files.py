from __future__ import annotations

import os
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from expedit_sam.mask_files import corrected_masks, masked_image, write_mask

MASK = np.arange(600).reshape(20, 30) % 7 < 3


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_a_mask_reads_as_it_was_and_counts_as_written(mask: np.ndarray) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "001.png")
        write_mask(path, np.asfortranarray(mask), "a.jpg")
        read = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, mask * 255)
        assert corrected_masks(path.parent) == []


@pytest.mark.parametrize("editor", ["keeps the hash", "drops the hash"])
def test_a_mask_that_somebody_corrected_is_known(tmp_path: Path, editor: str) -> None:
    for number in (1, 2, 1000):
        write_mask(tmp_path / f"{number:03d}.png", MASK, "a.jpg")
    path = tmp_path / "1000.png"
    with Image.open(path) as image:
        kept = {"pnginfo": _texts(image)} if editor == "keeps the hash" else {}
        pixels = np.array(image)
    pixels[3, 4] ^= 255
    Image.fromarray(pixels).save(path, **kept)
    assert corrected_masks(tmp_path) == [path]


def test_the_same_pixels_compressed_otherwise_are_no_correction(tmp_path: Path) -> None:
    path = tmp_path / "001.png"
    write_mask(path, MASK, "a.jpg")
    with Image.open(path) as image:
        image.load()
        image.save(path, optimize=True, pnginfo=_texts(image))
    assert corrected_masks(tmp_path) == []


@pytest.mark.parametrize("image", ["a.jpg", "../my photos/Käse 写真.png"])
def test_a_mask_says_which_image_it_is_of(tmp_path: Path, image: str) -> None:
    for number in (1, 2):
        write_mask(tmp_path / f"{number:03d}.png", MASK, image)
    (tmp_path / "000 notes.png").touch()
    assert masked_image(tmp_path) == image
    (tmp_path / "001.png").unlink()
    assert masked_image(tmp_path) == image


def test_masks_that_do_not_say_which_image_they_are_of(tmp_path: Path) -> None:
    assert masked_image(tmp_path) == ""
    Image.fromarray(MASK).save(tmp_path / "001.png")
    assert masked_image(tmp_path) == ""
    (tmp_path / "001.png").write_text("no picture")
    assert masked_image(tmp_path) == ""
    write_mask(tmp_path / "001.png", MASK, os.fsdecode(b"k\xe4se.jpg"))  # a name in Latin-1
    assert masked_image(tmp_path) == "k?se.jpg"
    assert corrected_masks(tmp_path) == []


@pytest.mark.parametrize("contents", [b"", b"no picture", None])
def test_what_is_no_whole_png_is_somebody_s(tmp_path: Path, contents: bytes | None) -> None:
    path = tmp_path / "001.png"
    write_mask(path, MASK, "a.jpg")
    path.write_bytes(path.read_bytes()[:-30] if contents is None else contents)
    assert corrected_masks(tmp_path) == [path]


def test_only_names_of_masks_count(tmp_path: Path) -> None:
    for name in ("mine.png", "0007.png", "1.png", "001.PNG.png", "²²².png", "001.jpg"):
        (tmp_path / name).touch()
    assert corrected_masks(tmp_path) == []
    assert corrected_masks(tmp_path / "missing") == []
    assert corrected_masks(tmp_path / "mine.png") == []


def test_a_mask_of_another_kind_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("was run"))
    Image.new("RGB", (9, 9)).save(tmp_path / "001.png", "EPS")
    assert corrected_masks(tmp_path) == [tmp_path / "001.png"]


def _texts(image: Image.Image) -> PngInfo:
    texts = PngInfo()
    texts.add_text("Contents", image.info["Contents"])
    return texts
