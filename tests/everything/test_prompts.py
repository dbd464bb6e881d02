from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expedit_sam.errors import InputError
from expedit_sam.everything.prompts import (
    batch_iterator,
    build_all_layer_point_grids,
    build_point_grid,
    generate_crop_boxes,
)


@given(st.integers(1, 40))
def test_points_are_the_centres_of_equal_cells(side: int) -> None:
    grid = build_point_grid(side)
    cells = np.floor(grid * side).astype(int)
    assert len({tuple(cell) for cell in cells}) == side * side
    np.testing.assert_allclose(grid.mean(axis=0), 0.5)
    assert cells[:side, 0].tolist() == list(range(side))


def test_deeper_layers_have_fewer_points() -> None:
    assert [len(grid) for grid in build_all_layer_point_grids(8, 2, 2)] == [64, 16, 4]
    assert [len(grid) for grid in build_all_layer_point_grids(8, 1, 8)] == [64, 1]


@pytest.mark.parametrize("factor", [-1, 0, 9])
def test_layers_without_points(factor: int) -> None:
    with pytest.raises(InputError, match=f"crop_n_points_downscale_factor is {factor};"):
        build_all_layer_point_grids(8, 1, factor)


@given(
    height=st.integers(64, 800),  # smaller ones have crops without pixels
    width=st.integers(64, 800),
    layers=st.integers(0, 3),
    overlap=st.floats(0, 0.5),
)
def test_crops_cover_the_image(height: int, width: int, layers: int, overlap: float) -> None:
    boxes, box_layers = generate_crop_boxes((height, width), layers, overlap)
    assert boxes[0] == [0, 0, width, height]
    for layer in range(layers + 1):
        covered = np.zeros((height, width), bool)
        of_layer = [box for box, its in zip(boxes, box_layers, strict=True) if its == layer]
        assert len(of_layer) == 4**layer
        for x0, y0, x1, y1 in of_layer:
            assert 0 <= x0 <= width
            assert 0 <= y0 <= height
            covered[y0:y1, x0:x1] = True
        assert covered.all()


def test_batches() -> None:
    batches = list(batch_iterator(2, [1, 2, 3], "abc"))
    assert batches == [[[1, 2], "ab"], [[3], "c"]]
    with pytest.raises(ValueError, match="one length"):
        list(batch_iterator(2, [1], [1, 2]))
