from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from expedit_sam.everything.filters import (
    batched_mask_to_box,
    calculate_stability_score,
    is_box_near_crop_edge,
    suppress_duplicates,
    uncrop_masks,
)
from expedit_sam.everything.regions import remove_small_regions


@given(hnp.arrays(bool, st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))))
def test_boxes_hold_all_of_a_mask_and_no_more(masks: np.ndarray) -> None:
    boxes = batched_mask_to_box(torch.as_tensor(masks)).tolist()
    for mask, box in zip(masks, boxes, strict=True):
        y, x = mask.nonzero()
        assert box == ([x.min(), y.min(), x.max(), y.max()] if len(x) else [0, 0, 0, 0])


def test_boxes_of_no_masks() -> None:
    assert batched_mask_to_box(torch.zeros(0, 5, 5, dtype=torch.bool)).shape == (0, 4)


def test_stability_is_the_iou_of_a_strict_and_a_lenient_cut() -> None:
    logits = torch.tensor([[[3.0, 1.0, -0.5, -1.0]], [[-9.0] * 4]])  # two right at a cut
    scores = calculate_stability_score(logits, 0.0, 1.0)
    assert scores[0].item() == pytest.approx(1 / 3)
    assert scores[1].isnan()


@given(st.integers(0, 40), st.integers(0, 2**32 - 1), st.floats(0.1, 0.9))
def test_suppression_keeps_the_best_of_each_cluster(
    number: int, seed: int, threshold: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 30, (number, 2, 2), generator=generator)
    boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1) + 1], dim=1)
    scores = torch.randn(number, generator=generator)
    pairs = itertools.combinations(boxes.tolist(), 2)
    assume(all(abs(_iou(a, b) - threshold) > 1e-6 for a, b in pairs))  # ties are up to rounding
    assert suppress_duplicates(boxes, scores, threshold).tolist() == _by_hand(
        boxes.tolist(), scores.tolist(), threshold
    )


def _by_hand(boxes: list[list[int]], scores: list[float], threshold: float) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(_iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


def _iou(a: list[int], b: list[int]) -> float:
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def test_boxes_without_area_are_nobodys_duplicate() -> None:
    boxes = np.array([[0, 0, 0, 9], [0, 0, 9, 9], [0, 0, 0, 9], [0, 0, 9, 8], [3, 3, 3, 3]])
    scores = np.array([0.5, 0.6, 0.9, 0.7, 0.1])
    assert suppress_duplicates(boxes, scores, 0.5).tolist() == [2, 3, 0, 4]


def test_masks_cut_off_by_a_crop_are_seen() -> None:
    boxes = torch.tensor([[20, 50, 90, 120], [21, 50, 120, 120], [50, 50, 200, 120]])
    # The crop spans 100..300 of an image of 400; in the image these boxes start at 120, 121, 150.
    near = is_box_near_crop_edge(boxes, [100, 0, 300, 400], [0, 0, 400, 400])
    assert near.tolist() == [True, False, True]


def test_masks_of_a_crop_return_to_their_place() -> None:
    masks = uncrop_masks(torch.ones(2, 3, 4, dtype=torch.bool), [5, 6, 9, 9], 12, 10)
    assert (masks.shape, masks.dtype) == ((2, 12, 10), torch.bool)
    assert masks.sum() == 24
    assert masks[:, 6:9, 5:9].all()


def test_small_holes_are_filled_and_small_islands_dropped() -> None:
    mask = np.zeros((20, 20), bool)
    mask[2:12, 2:12] = True
    mask[5, 5] = False
    mask[16:18, 16:18] = True
    filled, changed = remove_small_regions(mask, 3, "holes")
    assert changed
    assert filled.sum() == mask.sum() + 1
    dropped, changed = remove_small_regions(filled, 5, "islands")
    assert changed
    assert dropped.sum() == 100
    same, changed = remove_small_regions(dropped, 5, "islands")
    assert not changed
    assert same is dropped
    largest, _ = remove_small_regions(mask, 1000, "islands")
    assert largest.sum() == 99
    with pytest.raises(ValueError, match="'bumps'"):
        remove_small_regions(mask, 3, "bumps")
