from __future__ import annotations

import numpy as np
import pytest
import torch

from expedit_sam.everything.filters import batched_mask_to_box, calculate_stability_score
from expedit_sam.everything.full_size import MaskMaker
from expedit_sam.everything.rle import decode_mask
from expedit_sam.transforms import upscale_logits

CROP = (10, 20, 160, 110)  # 150 wide, 90 high


def maker(**changes) -> MaskMaker:
    settings = {
        "side": 320,
        "input_size": (192, 320),
        "crop_box": CROP,
        "image_size": (200, 300),
        "threshold": 0.5,
        "stability_offset": 1.0,
        "least_stability": 0.0,
    }
    return MaskMaker(**(settings | changes))


def blob(row: int, column: int) -> np.ndarray:
    """80x80 logits of a soft disc; rows of the crop end at 48."""
    y, x = np.mgrid[:80, :80]
    return (6 - np.hypot(y - row, x - column)).astype(np.float32)


def test_equals_the_filters_one_by_one() -> None:
    low_res = blob(25, 40)
    found = maker().make(low_res)
    assert found is not None
    logits = torch.from_numpy(upscale_logits(low_res, 320, (192, 320), (90, 150)))
    mask = logits > 0.5
    assert found.stability == pytest.approx(calculate_stability_score(logits, 0.5, 1.0).item())
    assert list(found.box) == batched_mask_to_box(mask).tolist()
    whole = np.zeros((200, 300), bool)
    whole[20:110, 10:160] = mask.numpy()
    np.testing.assert_array_equal(decode_mask(found.rle), whole)


def test_unstable_masks_and_masks_that_the_crop_cuts_are_dropped() -> None:
    stability = maker().make(blob(25, 40)).stability
    assert maker(least_stability=stability).make(blob(25, 40)) is not None
    assert maker(least_stability=stability + 0.01).make(blob(25, 40)) is None
    assert maker().make(blob(25, 79)) is None  # at the crop's right edge, inside the image
    assert maker(crop_box=(0, 0, 300, 200), input_size=(213, 320)).make(blob(25, 79)) is not None


def test_an_empty_mask_has_an_empty_box() -> None:
    whole = maker(crop_box=(0, 0, 300, 200), input_size=(213, 320))
    found = whole.make(np.full((80, 80), -9, np.float32))
    assert found is not None
    assert np.isnan(found.stability)
    assert found.box == (0, 0, 0, 0)
    assert not decode_mask(found.rle).any()
