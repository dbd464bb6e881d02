from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from expedit_sam.everything.point_queue import PointQueue
from expedit_sam.everything.prompts import build_point_grid
from expedit_sam.everything.rle import encode_masks


def left_half(size: int) -> list:
    mask = np.zeros((1, size, size), bool)
    mask[:, :, : size // 2] = True
    return encode_masks(mask)


@given(st.integers(1, 9), st.integers(1, 50), st.booleans())
def test_without_masks_every_point_is_asked_once(side: int, batch: int, sparing: bool) -> None:
    points = build_point_grid(side) * 100
    settled: list[int] = []
    area = 50.0 if sparing else 0.0
    queue = PointQueue(points, batch, area, (0, 0), (100, 100), settled.append)
    asked = list(queue)
    assert all(0 < len(some) <= batch for some in asked)
    assert sum(settled) == len(points)
    assert sorted(map(tuple, np.concatenate(asked))) == sorted(map(tuple, points))
    if not sparing:
        np.testing.assert_array_equal(np.concatenate(asked), points)


def test_finer_points_under_a_mask_are_skipped() -> None:
    points = build_point_grid(8) * 80
    settled: list[int] = []
    queue = PointQueue(points, 4, 80 * 80 / 2, (0, 0), (80, 80), settled.append)
    asked = []
    for batch in queue:
        asked.append(batch)
        queue.cover(left_half(80))
    asked_points = np.concatenate(asked)
    every_second = (5, 25, 45, 65)
    assert set(map(tuple, asked_points[:16])) == set(product(every_second, every_second))
    assert (asked_points[:, 0] < 40).sum() == 8  # the coarse ones
    assert (asked_points[:, 0] >= 40).sum() == 32
    assert sum(settled) == 64


def test_large_masks_let_no_point_be_skipped() -> None:
    points = build_point_grid(4) * 80
    queue = PointQueue(points, 4, 80 * 80 / 4, (0, 0), (80, 80))
    queue.cover(left_half(80))
    assert sum(map(len, queue)) == 16


def test_points_of_a_crop_are_looked_up_in_the_image() -> None:
    points = build_point_grid(4) * 40
    queue = PointQueue(points, 16, 80 * 80, (40, 40), (80, 80))
    queue.cover(left_half(80))
    assert sum(map(len, queue)) == 16


def test_points_on_the_far_edge_are_those_of_the_last_pixel() -> None:
    queue = PointQueue(np.full((2, 2), 80.0), 4, 80 * 80, (0, 0), (80, 80))
    queue.cover(encode_masks(np.ones((1, 80, 80), bool)))
    assert sum(map(len, queue)) == 1  # the coarse one
