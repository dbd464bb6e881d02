from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expedit_sam.errors import InputError
from expedit_sam.hourglass.settings import PRESETS, Hourglass, resolve


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("location", -1),
        ("location", 1.5),
        ("location", 0.0),
        ("location", True),
        ("location", None),
        ("location", np.True_),
        ("clusters", 80),
        ("clusters", 0),
        ("clusters", 1.0),
        ("iterations", 0),
        ("iterations", 2.5),
        ("temperature", None),
        ("temperature", True),
        ("temperature", 0.0),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("neighborhood", 4),
        ("neighborhood", "5"),
        ("reconstruction_neighbors", 0),
        ("reconstruction_neighbors", 2.0),
        ("scale_free", "no"),
        ("mean_values", 1),
    ],
)
def test_a_value_out_of_range_is_named(field: str, value: object) -> None:
    with pytest.raises(InputError, match=f"Hourglass {field} is .*; it must be"):
        Hourglass(**{field: value})


def test_numbers_may_be_those_of_numpy() -> None:
    setting = Hourglass(
        np.int64(3), np.float32(0.25), temperature=np.float64(9), size_aware=np.False_
    )
    assert setting == Hourglass(3, 0.25, temperature=9.0, size_aware=False)
    assert "np." not in repr(setting)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Hourglass().clusters = 49  # type: ignore[misc]


@given(depth=st.integers(2, 64), window=st.integers(2, 32), name=st.sampled_from(sorted(PRESETS)))
def test_presets_fit_every_network(depth: int, window: int, name: str) -> None:
    setting = resolve(name)
    if setting is not None:
        assert 0 <= setting.block(depth) < depth
        assert 1 <= setting.cluster_side(window) <= window


@pytest.mark.parametrize("depth", [12, 24, 32])
def test_presets_are_ordered_by_how_much_they_cluster(depth: int) -> None:
    blocks = [PRESETS[name].block(depth) for name in ("quality", "balanced", "fast")]
    assert blocks == sorted(blocks, reverse=True)
    assert PRESETS["balanced"].cluster_side(14) == 7


def test_whole_numbers_count_and_fractions_scale() -> None:
    assert Hourglass(location=6).block(12) == 6
    assert Hourglass(location=0.25).block(32) == 8
    assert Hourglass(location=0.99).block(12) == 11  # at least the last block runs on clusters
    assert Hourglass(clusters=81).cluster_side(14) == 9
    assert Hourglass(clusters=0.25).cluster_side(14) == 7


def test_what_does_not_fit_a_network_is_refused() -> None:
    with pytest.raises(ValueError, match="beyond the last block of a network of 12"):
        Hourglass(location=12).block(12)
    with pytest.raises(ValueError, match="exceed the 49 tokens of a 7x7 window"):
        Hourglass(clusters=81).cluster_side(7)


def test_resolve_takes_names_settings_and_none() -> None:
    setting = Hourglass(location=3)
    assert resolve(setting) is setting
    assert resolve(None) is None
    assert resolve("exact") is None
    with pytest.raises(ValueError, match="'turbo'; choose one of exact, quality, balanced, fast"):
        resolve("turbo")
    with pytest.raises(TypeError, match="not int"):
        resolve(3)  # type: ignore[arg-type]
