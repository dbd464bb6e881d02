from __future__ import annotations

import errno
import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pycocotools.coco import COCO

from expedit_sam import results
from expedit_sam.errors import InputError
from expedit_sam.results import (
    FORMATS,
    check_formats,
    check_inputs_stay,
    result_names,
    write_results,
)

SIZE = (30, 40)


def boxes(count: int) -> list[dict]:
    """Records of masks that are boxes of different sizes."""
    records = []
    for index in range(count):
        mask = np.zeros(SIZE, bool)
        mask[index : 2 * index + 3, 5 : 12 + index] = True
        records.append({"segmentation": mask, "predicted_iou": 0.5, "stability_score": 0.25})
    return records


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_json_is_what_pycocotools_loads(tmp_path: Path) -> None:
    records = boxes(3)
    write_results(tmp_path, "photo", "in/photo.jpg", SIZE, records)
    loaded = COCO(tmp_path / "photo.json")
    (image,) = loaded.loadImgs(loaded.getImgIds())
    assert image["file_name"] == "in/photo.jpg"
    assert (image["height"], image["width"]) == SIZE
    assert loaded.getCatIds() == [1]
    annotations = loaded.loadAnns(loaded.getAnnIds(imgIds=image["id"], iscrowd=False))
    assert [annotation["id"] for annotation in annotations] == [1, 2, 3]
    for annotation, record in zip(annotations, records, strict=True):
        mask = loaded.annToMask(annotation)
        np.testing.assert_array_equal(mask, record["segmentation"])
        assert annotation["area"] == mask.sum()
        assert annotation["predicted_iou"] == 0.5
        assert annotation["stability_score"] == 0.25


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_box_and_area_are_of_the_mask(mask: np.ndarray) -> None:
    document = results.coco_document("x.png", mask.shape, [{"segmentation": mask}])
    (annotation,) = json.loads(json.dumps(document))["annotations"]
    x, y, width, height = map(int, annotation["bbox"])
    assert annotation["area"] == mask.sum()
    assert mask[y : y + height, x : x + width].sum() == mask.sum()
    if mask.any():
        assert [height, width] == (np.ptp(np.nonzero(mask), axis=1) + 1).tolist()


def test_pngs_are_numbered_as_in_the_json(tmp_path: Path) -> None:
    records = boxes(2)
    write_results(tmp_path, "photo", "photo.jpg", SIZE, records)
    assert names(tmp_path) == [
        "photo.json",
        "photo_masks",
        "photo_masks/001.png",
        "photo_masks/002.png",
    ]
    for number, record in enumerate(records, 1):
        with Image.open(tmp_path / "photo_masks" / f"{number:03d}.png") as mask:
            assert mask.mode == "L"
            np.testing.assert_array_equal(np.asarray(mask), 255 * record["segmentation"])


def test_only_what_is_asked_for(tmp_path: Path) -> None:
    written = write_results(tmp_path, "photo", "photo.jpg", SIZE, boxes(1), formats=["coco"])
    assert written == [tmp_path / "photo.json"]
    assert names(tmp_path) == ["photo.json"]


def test_overlay_and_logits(tmp_path: Path) -> None:
    picture = np.full((*SIZE, 3), (200, 100, 0), np.uint8)
    logits = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    written = write_results(
        tmp_path, "photo", "photo.jpg", SIZE, [], formats=[], overlay=picture, logits=logits
    )
    assert written == [tmp_path / "photo_logits.npy", tmp_path / "photo_overlay.jpg"]
    np.testing.assert_array_equal(np.load(tmp_path / "photo_logits.npy"), logits)
    with Image.open(tmp_path / "photo_overlay.jpg") as image:
        np.testing.assert_allclose(np.asarray(image), picture, atol=4)


def test_pictures_too_long_for_jpeg_become_png(tmp_path: Path) -> None:
    long = np.zeros((1, 70_000, 3), np.uint8)
    (written,) = write_results(tmp_path, "x", "x.png", (1, 70_000), [], formats=[], overlay=long)
    assert written.name == "x_overlay.png"


def test_no_masks_are_a_result(tmp_path: Path) -> None:
    write_results(tmp_path, "photo", "photo.jpg", SIZE, [])
    assert COCO(tmp_path / "photo.json").getAnnIds() == []
    assert names(tmp_path) == ["photo.json", "photo_masks"]


def test_numbers_of_numpy_and_what_is_no_number(tmp_path: Path) -> None:
    scores = {"predicted_iou": np.float32(0.5), "stability_score": float("nan")}
    record = {"segmentation": np.zeros(SIZE, bool), "point_coords": np.array([[1, 2]]), **scores}
    write_results(tmp_path, "photo", "photo.jpg", SIZE, [record])
    (annotation,) = json.loads((tmp_path / "photo.json").read_text())["annotations"]
    assert annotation["predicted_iou"] == 0.5
    assert annotation["point_coords"] == [[1, 2]]
    assert annotation["stability_score"] is None


def test_a_second_run_replaces_the_first(tmp_path: Path) -> None:
    write_results(tmp_path, "photo", "photo.jpg", SIZE, boxes(4))
    (tmp_path / "photo_masks" / "mine.png").touch()
    write_results(tmp_path, "photo", "photo.jpg", SIZE, boxes(1))
    assert names(tmp_path / "photo_masks") == ["001.png", "mine.png"]
    assert len(json.loads((tmp_path / "photo.json").read_text())["annotations"]) == 1


@pytest.mark.parametrize("method", ["replace", "unlink"])
@pytest.mark.parametrize("stopped_at", [1, 2, 3])
def test_a_run_after_one_that_was_stopped_leaves_no_mask_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, stopped_at: int
) -> None:
    before, stopped = (5, 1) if method == "unlink" else (1, 4)
    write_results(tmp_path, "photo", "photo.jpg", SIZE, boxes(before))
    original, calls = getattr(Path, method), iter(range(1, 99))

    def stopping(path: Path, *arguments: Path) -> object:
        if path.parent.name == "photo_masks" and next(calls) == stopped_at:
            raise KeyboardInterrupt
        return original(path, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Path, method, stopping)
        with pytest.raises(KeyboardInterrupt):
            write_results(tmp_path, "photo", "photo.jpg", SIZE, boxes(stopped))
    write_results(tmp_path, "photo", "photo.jpg", SIZE, boxes(1))
    assert names(tmp_path) == ["photo.json", "photo_masks", "photo_masks/001.png"]


def test_what_cannot_be_cleared_away_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(path: object, *_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(os, "rmdir", locked)
    write_results(tmp_path, "photo", "photo.jpg", SIZE, boxes(1), ["coco"])
    assert json.loads((tmp_path / "photo.json").read_text())["annotations"]


@pytest.mark.parametrize("broken", ["write_text", "write_bytes"])
def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    write_results(tmp_path, "photo", "photo.jpg", SIZE, boxes(1))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(path: Path, *_: object, **__: object) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, broken, full)
    with pytest.raises(InputError, match=r"cannot write to .*No space left"):
        write_results(tmp_path, "photo", "photo.jpg", SIZE, boxes(3))
    assert contents(tmp_path) == before
    assert names(tmp_path) == ["photo.json", "photo_masks", "photo_masks/001.png"]


def test_logits_whose_end_does_not_fit_are_not_written(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    logits = np.zeros((1, 40, 40), np.float32)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (logits.nbytes, limits[1]))  # no room for the header
    try:
        with pytest.raises(InputError, match="File too large"):
            write_results(tmp_path, "photo", "photo.jpg", SIZE, [], [], logits=logits)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == []


def test_images_of_one_name_get_different_names() -> None:
    files = ["a/cat.jpg", "b/cat.jpg", "b/Cat.png", "cat_2.jpg", "dog.jpg"]
    assert result_names(map(Path, files)) == ["cat", "cat_2", "Cat_3", "cat_2_2", "dog"]


def test_names_of_many_images_of_one_name_are_not_searched_anew() -> None:
    class Stem(str):
        tried = 0

        def __format__(self, how: str) -> str:
            Stem.tried += 1
            return super().__format__(how)

    images: Any = [SimpleNamespace(stem=Stem("rgb"))] * 300
    assert result_names(images)[-1] == "rgb_300"
    assert Stem.tried == 299


@given(st.lists(st.text("ab_2", min_size=1, max_size=4), max_size=8))
def test_names_are_unique(stems: list[str]) -> None:
    given_names = result_names(Path(f"{stem}.jpg") for stem in stems)
    assert len(set(given_names)) == len(stems)
    assert all(name.startswith(stem) for name, stem in zip(given_names, stems, strict=True))


def test_formats() -> None:
    assert check_formats(["coco", " png"]) == ["coco", "png"]
    with pytest.raises(InputError, match="'gif'"):
        check_formats(["coco", "gif"])


def test_an_unknown_format_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'gif'"):
        write_results(tmp_path / "out", "photo", "photo.jpg", SIZE, boxes(1), ["coco", "gif"])
    assert not (tmp_path / "out").exists()


def test_files_of_somebody_elses_stay(tmp_path: Path) -> None:
    for text in ('{"shapes": []}', "[" * 100_000):
        (tmp_path / "photo.json").write_text(text)
        with pytest.raises(InputError, match=r"photo\.json is there and not as a run of ours"):
            write_results(tmp_path, "photo", "photo.jpg", (4, 6), [])
        assert (tmp_path / "photo.json").read_text() == text
    (tmp_path / "other_masks").mkdir()
    (tmp_path / "other_masks" / "0007.png").touch()
    write_results(tmp_path, "other", "other.jpg", (4, 6), [])
    assert (tmp_path / "other_masks" / "0007.png").exists()


def test_a_json_of_ours_that_somebody_has_corrected_stays(tmp_path: Path) -> None:
    (json_file,) = write_results(tmp_path, "photo", "photo.jpg", (4, 6), boxes(2), ["coco"])
    document = json.loads(json_file.read_text())
    document["categories"][0]["name"] = "cup"
    json_file.write_text(json.dumps(document))
    with pytest.raises(InputError, match="rename or delete it, or choose another folder"):
        write_results(tmp_path, "photo", "photo.jpg", (4, 6), boxes(1))
    assert json.loads(json_file.read_text()) == document
    assert names(tmp_path) == ["photo.json"]


def test_a_mask_that_somebody_has_corrected_stays(tmp_path: Path) -> None:
    write_results(tmp_path, "photo", "photo.jpg", SIZE, boxes(3))
    corrected = tmp_path / "photo_masks" / "002.png"
    Image.fromarray(np.full(SIZE, 255, np.uint8)).save(corrected)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"002\.png is there and not as a run of ours left it"):
        write_results(tmp_path, "photo", "photo.jpg", SIZE, boxes(1))
    assert contents(tmp_path) == before
    write_results(tmp_path, "photo", "photo.jpg", SIZE, boxes(1), ["coco"])  # no PNG is replaced
    assert len(json.loads((tmp_path / "photo.json").read_text())["annotations"]) == 1


@pytest.mark.parametrize("format", FORMATS)
def test_masks_of_another_image_of_the_same_name_stay(tmp_path: Path, format: str) -> None:
    if format in ("yolo", "labelme"):
        pytest.importorskip("supervision")
    one, other = tmp_path / "one" / "photo.jpg", tmp_path / "other" / "photo.jpg"
    one.parent.mkdir()
    one.touch()
    folder = tmp_path / "out"
    write_results(folder, "photo", one, SIZE, boxes(2), [format])
    before = contents(folder)
    with pytest.raises(InputError, match=f"has the masks of {re.escape(str(one))}: choose another"):
        write_results(folder, "photo", other, SIZE, boxes(1), [format])
    assert contents(folder) == before
    write_results(folder, "photo", one, SIZE, boxes(3), [format])
    assert contents(folder) != before
    before = contents(folder)
    one.unlink()
    write_results(folder, "photo", other, SIZE, boxes(1), [format])
    assert contents(folder) != before


def test_images_are_not_replaced_by_results(tmp_path: Path) -> None:
    images = [tmp_path / "a.jpg", tmp_path / "a_overlay.jpg"]
    check_inputs_stay(tmp_path, images[:1], images[:1])
    with pytest.raises(InputError, match=r"a_overlay\.jpg"):
        check_inputs_stay(tmp_path, images, images)
    with pytest.raises(InputError, match="folder of the images"):
        check_inputs_stay(tmp_path, [tmp_path], images[:1])


@pytest.mark.parametrize("name", ["photo_masks", "photo.json"])
def test_nothing_is_written_where_something_is_in_the_way(tmp_path: Path, name: str) -> None:
    if name == "photo_masks":
        (tmp_path / name).touch()
    else:
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="photo"):
        write_results(tmp_path, "photo", "photo.jpg", (4, 6), [], ("png", "coco"))
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.skipif(sys.platform == "win32", reason="too long is no error of its own there")
def test_a_name_too_long_is_called_so(tmp_path: Path) -> None:
    for length, formats in ((252, ["png"]), (251, ["coco", "png"])):
        with pytest.raises(InputError, match=r"cannot write n+[._].*: shorten the image's name"):
            write_results(tmp_path, "n" * length, "photo.jpg", (4, 6), [], formats)


def test_a_link_that_leads_to_itself_is_an_image_too(tmp_path: Path) -> None:
    images = [tmp_path / "a.jpg", tmp_path / "a_overlay.jpg"]
    images[1].symlink_to(images[1])
    with pytest.raises(InputError, match=r"a_overlay\.jpg would be replaced"):
        check_inputs_stay(tmp_path, images, images)
