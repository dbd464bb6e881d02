from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expedit_sam.errors import InputError
from expedit_sam.evaluate.prompts import (
    bounding_box,
    check_kinds,
    correcting_click,
    interior_point,
    jittered_boxes,
)


def rectangle(x0: int, y0: int, x1: int, y1: int, size: tuple[int, int] = (60, 80)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[y0 : y1 + 1, x0 : x1 + 1] = True
    return mask


@st.composite
def rectangles(draw: st.DrawFn) -> tuple[int, int, int, int]:
    x = sorted(draw(st.tuples(st.integers(0, 79), st.integers(0, 79))))
    y = sorted(draw(st.tuples(st.integers(0, 59), st.integers(0, 59))))
    return x[0], y[0], x[1], y[1]


@given(rectangles())
def test_box_and_point_of_a_rectangle(corners: tuple[int, int, int, int]) -> None:
    mask = rectangle(*corners)
    assert tuple(bounding_box(mask)) == corners
    x, y = interior_point(mask)
    assert mask[y, x]
    x0, y0, x1, y1 = corners
    depth = min(x - x0, x1 - x, y - y0, y1 - y)
    assert depth == (min(x1 - x0, y1 - y0)) // 2


def test_the_edge_of_the_image_is_a_boundary() -> None:
    assert interior_point(rectangle(0, 0, 20, 20)) == (10, 10)


def test_corrections() -> None:
    truth = rectangle(10, 10, 40, 40)
    assert correcting_click(np.zeros_like(truth), truth) == ((25, 25), 1)
    assert correcting_click(truth, truth) == ((25, 25), 1)
    assert correcting_click(truth | rectangle(50, 10, 70, 30), truth) == ((60, 20), 0)
    (_, y), label = correcting_click(rectangle(10, 10, 40, 30), truth)
    assert (y in (35, 36), label) == (True, 1)
    missing_more = truth & ~rectangle(10, 10, 40, 22) | rectangle(50, 10, 54, 14)
    (_, y), label = correcting_click(missing_more, truth)
    assert (y, label) == (16, 1)


@given(rectangles(), st.integers(0, 2**32 - 1))
def test_jittered_boxes_stay_close_and_inside(
    corners: tuple[int, int, int, int], seed: int
) -> None:
    box = np.array([corners], float)
    noise = np.random.default_rng(seed).standard_normal((1, 4))
    (moved,) = jittered_boxes(box, noise, (60, 80))
    assert (moved[:2] <= moved[2:]).all()
    assert (moved >= 0).all()
    assert (moved <= (79, 59, 79, 59)).all()
    assert np.abs(np.sort(moved) - np.sort(box[0])).max() <= 20
    assert tuple(jittered_boxes(box, np.zeros((1, 4)), (60, 80))[0]) == corners


def test_boxes_are_jittered_by_a_tenth_of_their_sides() -> None:
    moved = jittered_boxes(np.array([[10.0, 10, 50, 30]]), np.array([[1.0, 1, -1, 2]]), (60, 80))
    assert moved.tolist() == [[14, 12, 46, 34]]


def test_kinds() -> None:
    assert check_kinds(["box", "click"]) == ["click", "box"]
    with pytest.raises(InputError, match="no prompt is called 'lasso': choose one of click, "):
        check_kinds(["lasso"])
    with pytest.raises(InputError, match="no prompts are asked for"):
        check_kinds([])
