from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from expedit_sam.demo.clicks import Clicks

SIZE = (40, 60)
KINDS = st.sampled_from(["include", "exclude", "corner"])
PLACES = st.floats(-100, 200)


def test_points_and_a_box() -> None:
    clicks = Clicks()
    clicks.add(10.4, 20.6, "include", SIZE)
    clicks.add(30, 5, "corner", SIZE)
    clicks.add(1, 2, "exclude", SIZE)
    assert clicks.box is None
    assert clicks.open_corner is not None
    clicks.add(12, 25, "corner", SIZE)
    np.testing.assert_array_equal(clicks.points, [[10, 21], [1, 2]])
    np.testing.assert_array_equal(clicks.labels, [1, 0])
    np.testing.assert_array_equal(clicks.box, [12, 5, 30, 25])
    assert clicks.open_corner is None


def test_a_new_box_takes_the_place_of_the_old_one() -> None:
    clicks = Clicks()
    for place in ((1, 1), (5, 5), (20, 30)):
        clicks.add(*place, "corner", SIZE)
    np.testing.assert_array_equal(clicks.box, [1, 1, 5, 5])
    clicks.add(10, 10, "corner", SIZE)
    np.testing.assert_array_equal(clicks.box, [10, 10, 20, 30])


def test_a_single_corner_is_no_prompt() -> None:
    clicks = Clicks()
    assert not clicks.is_prompt
    clicks.add(1, 1, "corner", SIZE)
    assert not clicks.is_prompt
    clicks.add(2, 2, "include", SIZE)
    assert clicks.is_prompt


@given(st.lists(st.tuples(PLACES, PLACES, KINDS), max_size=8))
def test_undo_takes_back_the_last_click(places: list) -> None:
    clicks = Clicks()
    for x, y, kind in places:
        before = list(clicks.history)
        clicks.add(x, y, kind, SIZE)
        last = clicks.history[-1]
        assert 0 <= last.x < SIZE[1]
        assert 0 <= last.y < SIZE[0]
        clicks.undo()
        assert clicks.history == before
        clicks.add(x, y, kind, SIZE)
    clicks.clear()
    clicks.undo()
    assert clicks.history == []
