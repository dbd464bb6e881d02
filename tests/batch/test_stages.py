from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from pycocotools import mask as coco

from expedit_sam.batch import network, stages
from expedit_sam.batch.loading import load_row
from expedit_sam.batch.network import Network
from expedit_sam.batch.passes import Scaler
from expedit_sam.batch.schema import RESULT
from expedit_sam.batch.stages import make_masks, read
from expedit_sam.batch.task import Task
from expedit_sam.everything import SamAutomaticMaskGenerator
from expedit_sam.everything.recommended import RECOMMENDED
from expedit_sam.model.sam import Sam
from expedit_sam.predictor import SamPredictor
from tests.batch.conftest import TAKE_ALL, picture


def through(sam: Sam, task: Task, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows after all three stages; their ``n`` is the number of their picture."""

    def load(row: dict[str, Any]) -> Any:
        return load_row(row | {"image": picture(row["n"])}, "image")

    table = pa.Table.from_pylist(rows)
    table = read(table, task, load, ("points", "boxes", "labels"))
    results = make_masks(Network(sam, task)(table), task)
    assert results.schema.names == ["n", *(field.name for field in RESULT)]
    return results.to_pylist()


@pytest.mark.parametrize("more", [{}, {"crop_n_layers": 1}, {"min_mask_region_area": 30}])
def test_everything_is_what_the_generator_finds(tiny_sam: Sam, more: dict) -> None:
    settings = TAKE_ALL | more
    task = Task.of(tiny_sam, everything=settings, points_per_batch=3)
    results = through(tiny_sam, task, [{"n": 1}, {"n": 2}])
    generator = SamAutomaticMaskGenerator(
        tiny_sam, points_per_batch=3, output_mode="coco_rle", **RECOMMENDED["vit_s"] | settings
    )
    for result in results:
        expected = generator.generate(picture(result["n"]))
        assert len(expected) > 0
        assert [m["segmentation"] for m in result["masks"]] == [
            record["segmentation"] for record in expected
        ]
        assert [m["predicted_iou"] for m in result["masks"]] == [
            record["predicted_iou"] for record in expected
        ]
        assert [m["prompt"]["points"] for m in result["masks"]] == [
            record["point_coords"] for record in expected
        ]
        assert (result["height"], result["width"]) == picture(result["n"]).shape[:2]


def test_prompts_give_what_the_predictor_predicts(tiny_sam: Sam) -> None:
    task = Task.of(tiny_sam, speed="exact", points_per_batch=2)
    points = [[5.0, 6.0], [30.0, 20.0], [50.0, 9.0]]
    boxes = [[2.0, 3.0, 40.0, 30.0]]
    rows = [
        {"n": 3, "points": points, "labels": None, "boxes": boxes},
        {"n": 4, "points": points, "labels": [1, 1, 0], "boxes": None},
    ]
    separate, together = through(tiny_sam, task, rows)
    predictor = SamPredictor(tiny_sam)

    def agrees(mask: dict, *prompt: Any, multimask: bool) -> None:
        masks, scores, _ = predictor.predict(*prompt, multimask_output=multimask)
        best = scores.argmax()
        np.testing.assert_allclose(mask["predicted_iou"], scores[best], rtol=1e-5, atol=1e-6)
        found = coco.decode(mask["segmentation"]).astype(bool)
        assert (found == masks[best]).mean() > 0.999
        assert mask["area"] == found.sum()

    predictor.set_image(picture(3))
    agrees(separate["masks"][0], None, None, np.array(boxes[0]), multimask=False)
    for point, mask in zip(points, separate["masks"][1:], strict=True):
        agrees(mask, np.array([point]), np.array([1]), multimask=True)
    predictor.set_image(picture(4))
    agrees(together["masks"][0], np.array(points), np.array([1, 1, 0]), multimask=False)
    assert separate["weights"] == together["weights"] == task.weights


def test_a_bad_row_says_so_and_the_others_stay(tiny_sam: Sam) -> None:
    task = Task.of(tiny_sam)
    good, bad = through(
        tiny_sam, task, [{"n": 1, "points": [[1.0, 2.0]]}, {"n": 1, "points": [[1.0]]}]
    )
    assert good["error"] is None
    assert len(good["masks"]) == 1
    assert bad["masks"] is None
    assert "points" in bad["error"]


def fail_once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: Exception) -> None:
    """Let a function fail at its first call."""
    function, errors = getattr(owner, name), [error]

    def failing(*given: Any, **more: Any) -> Any:
        if errors:
            raise errors.pop()
        return function(*given, **more)

    monkeypatch.setattr(owner, name, failing)


@pytest.mark.parametrize(
    ("owner", "name", "error"),
    [
        (Scaler, "set_image", MemoryError()),
        (network, "ask_prompts", RuntimeError("CUDA out of memory. Tried to allocate 9 GiB")),
        (stages, "upscale_masks", cv2.error("(-4:Insufficient memory) Failed to allocate")),
        (stages.pickle, "dumps", MemoryError()),
    ],
)
def test_an_image_that_memory_is_short_of_fails_alone(
    tiny_sam: Sam, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: Exception
) -> None:
    fail_once(monkeypatch, owner, name, error)
    rows = [{"n": n, "points": [[1.0, 2.0]]} for n in (1, 2)]
    failed, good = through(tiny_sam, Task.of(tiny_sam), rows)
    assert failed["error"] == "the image needs more memory than there is: scale it down"
    assert failed["masks"] is failed["height"] is failed["width"] is None
    assert good["error"] is None
    assert len(good["masks"]) == 1


@pytest.mark.parametrize(("tallest", "failures"), [(400, [False] * 3), (220, [False, True, False])])
def test_a_block_that_memory_is_short_of_is_encoded_one_by_one(
    tiny_sam: Sam, monkeypatch: pytest.MonkeyPatch, tallest: int, failures: list[bool]
) -> None:
    rows = [{"n": n, "points": [[1.0, 2.0]]} for n in (0, 3, 1)]
    expected = through(tiny_sam, Task.of(tiny_sam), rows)
    encode = SamPredictor.encode_scaled

    def short_of_memory(predictor: SamPredictor, crops: Any) -> Any:
        if len(crops) > 1 or crops[0].shape[0] > tallest:
            raise MemoryError
        return encode(predictor, crops)

    monkeypatch.setattr(SamPredictor, "images_at_once", 8)
    monkeypatch.setattr(SamPredictor, "encode_scaled", short_of_memory)
    results = through(tiny_sam, Task.of(tiny_sam), rows)
    assert ["more memory" in (row["error"] or "") for row in results] == failures
    for row, alone in zip(results, expected, strict=True):
        assert row["error"] or row["masks"] == alone["masks"]


@pytest.mark.parametrize(
    ("owner", "name"), [(SamPredictor, "encode_scaled"), (stages, "upscale_masks")]
)
def test_a_fault_of_ours_is_no_image_s(
    tiny_sam: Sam, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    fail_once(monkeypatch, owner, name, RuntimeError("ours"))
    with pytest.raises(RuntimeError, match="ours"):
        through(tiny_sam, Task.of(tiny_sam), [{"n": 1, "points": [[1.0, 2.0]]}])


def test_no_prompts_no_masks(tiny_sam: Sam) -> None:
    (result,) = through(tiny_sam, Task.of(tiny_sam), [{"n": 1, "boxes": None}])
    assert result["masks"] == []


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"no image", "is no image that can be read"),
        ({"name": "x"}, "image is a NoneType"),
        ({"path": "/missing.png"}, "/missing.png does not exist"),
        (np.zeros((4, 4), np.uint8), r"image has shape \(4, 4\)"),
        ("/missing.png", "/missing.png does not exist"),
        ("zip://1.png::file:///d.zip", "is a chain of file systems: write a path or a plain URL"),
    ],
)
def test_rows_without_an_image(value: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        load_row({"image": value}, "image")
