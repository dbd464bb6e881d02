"""SamAutomaticMaskGenerator against the original's, on a small network with random weights."""

from __future__ import annotations

import inspect
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from torch import nn

import segment_anything
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from segment_anything.utils import amg
from tests.conftest import randomized
from tests.dropin.conftest import small_sam

LENIENT = {
    "pred_iou_thresh": -1.0,
    "stability_score_thresh": 0.3,
    "stability_score_offset": 0.05,
    "box_nms_thresh": 0.9,
}
SETTINGS = {
    "grid": {"points_per_side": 6},
    "small batches": {"points_per_side": 5, "points_per_batch": 7},
    "thresholds": {"points_per_side": 8, "pred_iou_thresh": 0.1, "stability_score_thresh": 0.5},
    "strict duplicates": {"points_per_side": 8, "box_nms_thresh": 0.7},
    "crops": {"points_per_side": 4, "crop_n_layers": 1},
    "two layers": {
        "points_per_side": 4,
        "crop_n_layers": 2,
        "crop_n_points_downscale_factor": 2,
        "crop_nms_thresh": 0.5,
        "crop_overlap_ratio": 0.2,
    },
    "small regions": {"points_per_side": 6, "min_mask_region_area": 60},
    "crops and regions": {"points_per_side": 4, "crop_n_layers": 1, "min_mask_region_area": 200},
    "own points": {
        "points_per_side": None,
        "point_grids": [np.array([[0.2, 0.3], [0.8, 0.5], [0.1, 0.9]])],
        "box_nms_thresh": 1.0,
    },
}

POINT = {"point_coords": np.array([[30, 40]]), "point_labels": np.array([1])}


@pytest.fixture(scope="module")
def selective(original: ModuleType, image: np.ndarray) -> tuple[nn.Module, nn.Module]:
    """The original's network and ours, whose masks are few pixels in different places."""
    torch.manual_seed(1)
    mine, theirs = randomized(small_sam(segment_anything.modeling), 1), small_sam(original.modeling)
    theirs.load_state_dict(mine.state_dict())
    predictor = SamPredictor(mine)
    predictor.set_image(image)
    logits, _, _ = predictor.predict(**POINT, return_logits=True)
    mine.mask_threshold = theirs.mask_threshold = float(np.quantile(logits, 0.995))
    return theirs, mine


def as_mask(segmentation: Any) -> np.ndarray:
    if isinstance(segmentation, np.ndarray):
        return segmentation
    if isinstance(segmentation["counts"], list):
        return amg.rle_to_mask(segmentation)
    return coco.decode(segmentation).astype(bool)


def same(found: list[dict], expected: list[dict]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert list(a) == list(b)
        assert type(a["segmentation"]) is type(b["segmentation"])
        mine, theirs = as_mask(a["segmentation"]), as_mask(b["segmentation"])
        assert mine.shape == theirs.shape
        assert (mine & theirs).sum() >= 0.999 * (mine | theirs).sum()
        assert a["area"] == mine.sum()
        for name in ("predicted_iou", "stability_score"):
            assert a[name] == pytest.approx(b[name], abs=2e-3)
        assert a["bbox"] == pytest.approx(b["bbox"], abs=1)
        assert a["point_coords"][0] == pytest.approx(b["point_coords"][0])
        assert a["crop_box"] == b["crop_box"]


@pytest.mark.parametrize("name", SETTINGS)
def test_masks_equal_original(
    original: ModuleType, selective: tuple[nn.Module, nn.Module], image: np.ndarray, name: str
) -> None:
    settings = LENIENT | SETTINGS[name]
    expected = original.SamAutomaticMaskGenerator(selective[0], **settings).generate(image)
    found = SamAutomaticMaskGenerator(selective[1], **settings).generate(image)
    assert len(expected) >= 3
    same(found, expected)


def subclass_of(generator: Any) -> Any:
    """One that turns images upside down and drops masks that begin far left."""

    class Own(generator):
        def _process_crop(self, image: Any, crop_box: Any, layer: int, orig_size: Any) -> Any:
            return super()._process_crop(image[::-1], crop_box, layer, orig_size)

        def _process_batch(self, points: Any, im_size: Any, crop_box: Any, orig_size: Any) -> Any:
            data = super()._process_batch(points, im_size, crop_box, orig_size)
            data.filter(data["boxes"][:, 0] > im_size[1] // 8)
            return data

    return Own


def test_methods_overridden_as_for_the_original(
    original: ModuleType, selective: tuple[nn.Module, nn.Module], image: np.ndarray
) -> None:
    settings = LENIENT | SETTINGS["crops"]
    expected = subclass_of(original.SamAutomaticMaskGenerator)(selective[0], **settings)
    found = subclass_of(SamAutomaticMaskGenerator)(selective[1], **settings)
    steps: list[tuple[int, int]] = []
    records = found.generate(image, lambda *step: steps.append(step))
    assert len(records) >= 3
    same(records, expected.generate(image))
    assert steps == [(16 * crops, 80) for crops in range(1, 6)]


def with_our_helpers(method: Any) -> FunctionType:
    """A method of the original's, which imports the helpers from our package."""
    function = inspect.unwrap(method)
    return FunctionType(function.__code__, {**function.__globals__, **vars(amg)})


COPIED = ("_process_batch", "_process_crop", "_generate_masks", "generate")


@pytest.mark.parametrize("names", [*((name,) for name in COPIED), COPIED[:2], COPIED])
def test_methods_copied_from_the_original(
    original: ModuleType, selective: tuple[nn.Module, nn.Module], image: np.ndarray, names: tuple
) -> None:
    settings = LENIENT | SETTINGS["crops and regions"]
    theirs = original.SamAutomaticMaskGenerator
    copied = {name: with_our_helpers(vars(theirs)[name]) for name in names}
    found = type("Copied", (SamAutomaticMaskGenerator,), copied)(selective[1], **settings)
    expected = theirs(selective[0], **settings).generate(image)
    assert len(expected) >= 3
    same(found.generate(image), expected)


@pytest.mark.parametrize("mode", ["binary_mask", "uncompressed_rle", "coco_rle"])
def test_output_modes_equal_original(
    original: ModuleType, selective: tuple[nn.Module, nn.Module], image: np.ndarray, mode: str
) -> None:
    settings = LENIENT | {"points_per_side": 3, "output_mode": mode}
    expected = original.SamAutomaticMaskGenerator(selective[0], **settings).generate(image)
    found = SamAutomaticMaskGenerator(selective[1], **settings).generate(image)
    same(found, expected)


def test_no_masks_are_an_empty_list(
    original: ModuleType, selective: tuple[nn.Module, nn.Module], image: np.ndarray
) -> None:
    settings = {"points_per_side": 3, "pred_iou_thresh": 1e6}
    assert SamAutomaticMaskGenerator(selective[1], **settings).generate(image) == []
    assert original.SamAutomaticMaskGenerator(selective[0], **settings).generate(image) == []


def test_bad_arguments_are_value_errors(selective: tuple[nn.Module, nn.Module]) -> None:
    for settings in ({"points_per_side": None}, {"output_mode": "polygons"}):
        with pytest.raises(ValueError, match=r"points_per_side|output_mode"):
            SamAutomaticMaskGenerator(selective[1], **settings)
