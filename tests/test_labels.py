"""What other tools make of our masks."""

from __future__ import annotations

import json
import re
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from expedit_sam import extras
from expedit_sam.errors import InputError
from expedit_sam.everything import SamAutomaticMaskGenerator
from expedit_sam.label_files import LABELS_WRITTEN
from expedit_sam.labels import labelme_document, yolo_lines
from expedit_sam.model.sam import Sam
from expedit_sam.results import check_formats, write_results

SIZE = (60, 80)


@pytest.fixture(scope="module")
def supervision() -> Any:
    return pytest.importorskip("supervision")


@pytest.fixture
def records() -> list[dict]:
    """A square, and a mask of two pieces."""
    square, pieces = np.zeros((2, *SIZE), bool)
    square[10:30, 20:50] = True
    pieces[40:50, 5:15] = pieces[40:55, 60:75] = True
    return [{"segmentation": square}, {"segmentation": pieces}]


def test_supervision_takes_our_records(supervision: Any, tiny_sam: Sam, photo: np.ndarray) -> None:
    found = SamAutomaticMaskGenerator(
        tiny_sam, 2, pred_iou_thresh=-100, stability_score_thresh=0
    ).generate(photo)
    detections = supervision.Detections.from_sam(found)
    assert len(detections) == len(found) > 0
    by_area = sorted(found, key=lambda record: record["area"], reverse=True)
    np.testing.assert_array_equal(detections.mask, [r["segmentation"] for r in by_area])
    assert (detections.area == [record["area"] for record in by_area]).all()


def test_yolo_labels_come_back_as_the_same_masks(supervision: Any, records: list[dict]) -> None:
    from supervision.dataset.formats.yolo import yolo_annotations_to_detections

    lines = yolo_lines(SIZE, records).splitlines()
    assert len(lines) == 3  # a line a piece
    assert all(line.startswith("0 ") for line in lines)
    numbers = np.array([float(number) for line in lines for number in line.split()[1:]])
    assert numbers.min() >= 0
    assert numbers.max() <= 1
    back = yolo_annotations_to_detections(lines, resolution_wh=SIZE[::-1], with_masks=True)
    expected = records[0]["segmentation"] | records[1]["segmentation"]
    found = back.mask.any(axis=0)
    assert (found & expected).sum() / (found | expected).sum() > 0.9


def test_labelme_document(supervision: Any, records: list[dict]) -> None:
    document = json.loads(labelme_document("../photos/a.jpg", SIZE, records))
    assert document["imagePath"] == "../photos/a.jpg"
    assert (document["imageHeight"], document["imageWidth"]) == SIZE
    shapes = document["shapes"]
    assert [shape["shape_type"] for shape in shapes] == ["polygon"] * 3
    assert shapes[0]["group_id"] is None
    assert shapes[1]["group_id"] == shapes[2]["group_id"] == 1


def test_supervision_loads_our_coco_json(
    supervision: Any, records: list[dict], tmp_path: Path
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((*SIZE, 3), np.uint8))
    write_results(tmp_path / "out", "a", "a.png", SIZE, records)
    dataset = supervision.DetectionDataset.from_coco(
        str(tmp_path), str(tmp_path / "out" / "a.json"), force_masks=True
    )
    assert dataset.classes == ["object"]
    ((_, image, detections),) = dataset
    assert image.shape == (*SIZE, 3)
    np.testing.assert_array_equal(detections.mask, [r["segmentation"] for r in records])


def test_masks_too_thin_for_a_polygon_are_no_labels(supervision: Any) -> None:
    empty, line = np.zeros((2, *SIZE), bool)
    line[7, 5:30] = True
    for records in ([], [{"segmentation": empty}, {"segmentation": line}]):
        assert yolo_lines(SIZE, records) == ""
        assert json.loads(labelme_document("a.jpg", SIZE, records))["shapes"] == []


def test_a_hole_stays_one(supervision: Any) -> None:
    from supervision.dataset.formats.yolo import yolo_annotations_to_detections

    mask = np.zeros(SIZE, bool)
    mask[5:50, 5:70] = True
    mask[20:30, 20:40] = False
    (line,) = yolo_lines(SIZE, [{"segmentation": mask}]).splitlines()
    back = yolo_annotations_to_detections([line], resolution_wh=SIZE[::-1], with_masks=True)
    np.testing.assert_array_equal(back.mask[0], mask)
    (shape,) = json.loads(labelme_document("a.jpg", SIZE, [{"segmentation": mask}]))["shapes"]
    assert len(shape["points"]) * 2 == len(line.split()) - 1


def test_holes_that_no_cut_reaches_are_filled(supervision: Any) -> None:
    mask = np.random.default_rng(0).random(SIZE) < 0.6
    flooded = np.pad(mask, 1).astype(np.uint8)
    cv2.floodFill(flooded, None, (0, 0), 2)
    filled = flooded[1:-1, 1:-1] != 2
    noisy, whole = [{"segmentation": mask}], [{"segmentation": filled}]
    assert yolo_lines(SIZE, noisy) == yolo_lines(SIZE, whole) != ""
    assert labelme_document("a.jpg", SIZE, noisy) == labelme_document("a.jpg", SIZE, whole)


def test_written_beside_the_rest(supervision: Any, records: list[dict], tmp_path: Path) -> None:
    written = write_results(tmp_path, "a", "a.jpg", SIZE, records, ["coco", "yolo", "labelme"])
    assert [path.name for path in written] == ["a.json", "a.labelme.json", "a.txt"]
    assert sorted(tmp_path.iterdir()) == [tmp_path / LABELS_WRITTEN, *written]
    assert (tmp_path / "a.txt").read_text() == yolo_lines(SIZE, records)


@pytest.mark.skipif(sys.platform == "win32", reason="needs symbolic links")
def test_labelme_finds_the_image_from_the_json(
    supervision: Any, records: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("results/far").mkdir(parents=True)
    Path("link").symlink_to("results/far")
    for folder, path in (("out", "../photos/a.jpg"), ("link", "../../photos/a.jpg")):
        write_results(folder, "a", "photos/a.jpg", SIZE, records, ["labelme"])
        assert json.loads(Path(folder, "a.json").read_text())["imagePath"] == path


def test_labels_of_ours_are_known_after_a_full_disk(
    supervision: Any, records: list[dict], tmp_path: Path
) -> None:
    (tmp_path / LABELS_WRITTEN).write_text("5f2a")  # the beginning of a hash
    for some in (records, records[:1]):
        write_results(tmp_path, "a", "a.jpg", SIZE, some, ["yolo"])
        assert (tmp_path / "a.txt").read_text() == yolo_lines(SIZE, some)


@pytest.mark.parametrize(("format", "name"), [("yolo", "a.txt"), ("labelme", "a.json")])
def test_labels_of_somebody_elses_stay(
    supervision: Any, records: list[dict], tmp_path: Path, format: str, name: str
) -> None:
    (tmp_path / name).write_text("0 0.1 0.1 0.2 0.1 0.2 0.2")
    (tmp_path / "b.json").write_text('{"shapes": []}')
    with pytest.raises(InputError, match=f"{name} is there and not as a run of ours left it"):
        write_results(tmp_path, "a", "a.jpg", SIZE, records, [format, "png"])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["b.json", name])
    assert (tmp_path / name).read_text() == "0 0.1 0.1 0.2 0.1 0.2 0.2"


def test_labels_of_ours_are_replaced(supervision: Any, records: list[dict], tmp_path: Path) -> None:
    for some in (records, records[:1], records):
        write_results(tmp_path, "a", tmp_path / "a.jpg", SIZE, some, ["yolo", "labelme"])
        assert (tmp_path / "a.txt").read_text() == yolo_lines(SIZE, some)
        assert (tmp_path / "a.json").read_text() == labelme_document("a.jpg", SIZE, some)


def test_labels_of_an_image_with_two_lines_of_name(
    supervision: Any, records: list[dict], tmp_path: Path
) -> None:
    for some in (records, records[:1], records):
        write_results(tmp_path, "a", tmp_path / "one\ntwo.jpg", SIZE, some, ["yolo"])
        assert (tmp_path / "a.txt").read_text() == yolo_lines(SIZE, some)
    for line in (tmp_path / LABELS_WRITTEN).read_text().splitlines()[1:]:
        assert re.fullmatch("[0-9a-f]{64} one.two.jpg", line)


def test_many_labels_of_ours_are_not_split_into_lines(
    supervision: Any, records: list[dict], tmp_path: Path
) -> None:
    write_results(tmp_path, "a", "a.jpg", SIZE, records, ["yolo"])
    ledger = tmp_path / LABELS_WRITTEN
    with ledger.open("ab") as file:
        file.writelines(b"\n%064x" % number for number in range(50_000))
    tracemalloc.start()
    write_results(tmp_path, "a", "a.jpg", SIZE, records[:1], ["yolo"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "a.txt").read_text() == yolo_lines(SIZE, records[:1])
    assert peak < 2 * ledger.stat().st_size


def test_labels_of_ours_that_somebody_has_corrected_stay(
    supervision: Any, records: list[dict], tmp_path: Path
) -> None:
    write_results(tmp_path, "a", "a.jpg", SIZE, records, ["coco", "png", "yolo"])
    (tmp_path / "a.txt").write_text("0 0.1 0.1 0.2 0.1 0.2 0.2")
    with pytest.raises(InputError, match="rename or delete it, or choose another folder"):
        write_results(tmp_path, "a", "a.jpg", SIZE, records[:1], ["coco", "png", "yolo"])
    assert (tmp_path / "a.txt").read_text() == "0 0.1 0.1 0.2 0.1 0.2 0.2"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"yolo needs supervision: pip install 'expedit-sam\[la"):
        check_formats(["coco", "yolo"])
    assert check_formats(["coco", " png"]) == ["coco", "png"]
