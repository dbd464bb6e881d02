from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expedit_sam.batch.prompts import box_prompt, check_prompts, points_prompt, prompts_of
from expedit_sam.errors import InputError


def test_boxes_and_points_are_a_prompt_each() -> None:
    row = {"boxes": [[0, 1, 2, 3]], "points": [[5, 6], [7, 8]]}
    assert prompts_of(row) == [
        box_prompt([0, 1, 2, 3]),
        points_prompt([[5, 6]], [1]),
        points_prompt([[7, 8]], [1]),
    ]


def test_points_with_labels_are_one_prompt() -> None:
    row = {"points": [[5, 6], [7, 8]], "labels": [1, 0]}
    assert prompts_of(row) == [points_prompt([[5, 6], [7, 8]], [1, 0])]


def test_none_at_all_is_not_an_empty_list() -> None:
    assert prompts_of({"image": "x"}) is None
    assert prompts_of({"boxes": []}) == []


@pytest.mark.parametrize(
    "row",
    [
        {"boxes": 5},
        {"boxes": [[1, 2, 3]]},
        {"boxes": [[3, 3, 1, 1]]},
        {"boxes": [["a", 1, 2, 3]]},
        {"boxes": [[0, 0, math.nan, 1]]},
        {"boxes": [[0, 0, 10**400, 1]]},
        {"points": [[1]]},
        {"points": [[1, math.inf]]},
        {"points": [[1, 2]], "labels": [2]},
        {"points": [[1, 2]], "labels": [1, 1]},
        {"points": [[1, 2]], "labels": 7},
    ],
)
def test_faults(row: dict) -> None:
    with pytest.raises(InputError):
        prompts_of(row)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(["boxes", "points", "labels"]), _JSON))
def test_whatever_comes_is_refused_or_can_be_asked(row: dict) -> None:
    try:
        prompts = prompts_of(row)
    except InputError:
        return
    check_prompts(prompts or [])
