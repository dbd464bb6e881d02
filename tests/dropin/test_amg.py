"""utils.amg against the original's, on made-up inputs."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from segment_anything.utils import amg
from tests.original import original_modules

pytestmark = pytest.mark.usefixtures("original")
masks = arrays.arrays(bool, st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 12)))
quick = settings(max_examples=60)


def theirs() -> object:
    return original_modules()["utils.amg"]


@given(masks)
@quick
def test_run_lengths(mask: np.ndarray) -> None:
    encoded = amg.mask_to_rle_pytorch(torch.from_numpy(mask))
    assert encoded == theirs().mask_to_rle_pytorch(torch.from_numpy(mask))
    for rle, one in zip(encoded, mask, strict=True):
        assert np.array_equal(amg.rle_to_mask(rle), one)
        assert np.array_equal(theirs().rle_to_mask(rle), one)
        assert amg.area_from_rle(rle) == theirs().area_from_rle(rle) == one.sum()
        assert (coco := amg.coco_encode_rle(rle)) == theirs().coco_encode_rle(rle)
        assert np.array_equal(amg.rle_to_mask(coco), one)
        assert amg.area_from_rle(coco) == one.sum()
        json.dumps([rle, amg.coco_encode_rle(rle)])


@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 8), st.integers(1, 8)),
        elements=st.floats(-4, 4, width=32),
    ),
    st.floats(-1, 1),
    st.floats(0, 2),
)
@quick
def test_stability_score(logits: np.ndarray, threshold: float, offset: float) -> None:
    arguments = (torch.from_numpy(logits), threshold, offset)
    found = amg.calculate_stability_score(*arguments)
    expected = theirs().calculate_stability_score(*arguments)
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.nan_to_num(), expected.nan_to_num())


@given(st.one_of(masks, arrays.arrays(bool, (2, 3, 5, 4)), arrays.arrays(bool, (6, 5))))
@quick
def test_boxes_of_masks(mask: np.ndarray) -> None:
    found = amg.batched_mask_to_box(torch.from_numpy(mask))
    expected = theirs().batched_mask_to_box(torch.from_numpy(mask))
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


def test_boxes_of_no_masks() -> None:
    nothing = torch.zeros(0, 5, 6, dtype=torch.bool)
    expected = theirs().batched_mask_to_box(nothing)
    assert amg.batched_mask_to_box(nothing).shape == expected.shape == (0, 4)


@given(masks, st.integers(0, 20), st.sampled_from(["holes", "islands"]))
@quick
def test_small_regions(mask: np.ndarray, area: int, mode: str) -> None:
    found, changed = amg.remove_small_regions(mask[0], area, mode)
    expected, expected_changed = theirs().remove_small_regions(mask[0], area, mode)
    assert changed == expected_changed
    assert np.array_equal(found, expected)


@given(st.integers(1, 40), st.integers(0, 2), st.integers(1, 3))
@quick
def test_point_grids(side: int, layers: int, scale: int) -> None:
    side *= scale**layers
    grids = amg.build_all_layer_point_grids(side, layers, scale)
    expected = theirs().build_all_layer_point_grids(side, layers, scale)
    assert len(grids) == len(expected)
    for grid, other in zip(grids, expected, strict=True):
        np.testing.assert_allclose(grid, other, rtol=0, atol=1e-12)
    np.testing.assert_allclose(amg.build_point_grid(side), theirs().build_point_grid(side))


@given(st.integers(1, 900), st.integers(1, 900), st.integers(0, 3), st.floats(0, 1))
@quick
def test_crop_boxes(height: int, width: int, layers: int, overlap: float) -> None:
    found = amg.generate_crop_boxes((height, width), layers, overlap)
    assert found == theirs().generate_crop_boxes((height, width), layers, overlap)


boxes = arrays.arrays(
    np.float32, st.tuples(st.integers(0, 5), st.just(4)), elements=st.integers(0, 120)
)
corner = st.tuples(st.integers(0, 60), st.integers(0, 60))


@given(boxes, corner, corner)
@quick
def test_boxes_near_crop_edges(box: np.ndarray, start: tuple, size: tuple) -> None:
    crop = [*start, start[0] + size[0], start[1] + size[1]]
    arguments = (torch.from_numpy(box), crop, [0, 0, 120, 120])
    assert torch.equal(
        amg.is_box_near_crop_edge(*arguments), theirs().is_box_near_crop_edge(*arguments)
    )


@given(boxes, corner, masks)
@quick
def test_from_crop_to_image(box: np.ndarray, start: tuple, mask: np.ndarray) -> None:
    boxes, crop = torch.from_numpy(box), [*start, *start]
    for shaped in (boxes, boxes[:, None]):
        found = amg.uncrop_boxes_xyxy(shaped, crop)
        assert torch.equal(found, theirs().uncrop_boxes_xyxy(shaped, crop))
        points = shaped[..., :2]
        found = amg.uncrop_points(points, crop)
        assert torch.equal(found, theirs().uncrop_points(points, crop))
    height, width = mask.shape[1:]
    arguments = (
        torch.from_numpy(mask),
        [*start, start[0] + width, start[1] + height],
        start[1] + height + 3,
        start[0] + width + 2,
    )
    assert torch.equal(amg.uncrop_masks(*arguments), theirs().uncrop_masks(*arguments))


def test_box_to_width_and_height() -> None:
    for box in (torch.tensor([3, 4, 10, 20]), np.array([3.5, 4.0, 10.0, 20.0])):
        before = box.tolist()
        found, expected = amg.box_xyxy_to_xywh(box), theirs().box_xyxy_to_xywh(box)
        assert found.tolist() == expected.tolist()
        assert box.tolist() == before
    assert amg.box_xyxy_to_xywh([1, 2, 5, 9]) == theirs().box_xyxy_to_xywh([1, 2, 5, 9])


@given(st.integers(1, 5), st.integers(0, 12))
@quick
def test_batches(size: int, length: int) -> None:
    values = (list(range(length)), np.arange(length) * 2)
    found = list(amg.batch_iterator(size, *values))
    expected = list(theirs().batch_iterator(size, *values))
    assert [[list(part) for part in batch] for batch in found] == [
        [list(part) for part in batch] for batch in expected
    ]


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.permutations(range(4)))
@quick
def test_mask_data(keep: list[bool], order: list[int]) -> None:
    results = []
    for module in (amg, theirs()):
        count = len(keep)
        data = module.MaskData(a=torch.arange(count), b=np.arange(count) * 2, c=[*range(count)])
        data.filter(torch.tensor(keep))
        other = module.MaskData(a=torch.arange(4), b=np.arange(4), c=[*"wxyz"])
        other.filter(torch.tensor(order))
        data.cat(other)
        data["d"] = torch.ones(2)
        del data["d"]
        data.to_numpy()
        results.append({name: (type(column), list(column)) for name, column in data.items()})
    assert results[0] == results[1]
