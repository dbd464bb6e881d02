"""What the hourglass does, where and how strongly: one validated, immutable setting."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from expedit_sam.errors import InputError


@dataclass(frozen=True)
class Hourglass:
    """A speed setting of the image encoder (arXiv 2210.01035, section 3).

    Arguments:
        location: tokens are clustered before this block. A whole number counts blocks; a number
            below 1 with a decimal point is a fraction of the depth, so that it fits every network.
        clusters: clusters of one attention window. A whole number is a square such as 81 (of the
            196 tokens of a 14x14 window); a number below 1 is a fraction of the window's tokens.
        iterations: rounds of soft k-means, at least 1.
        temperature: how sharply a token belongs to its nearest cluster. Scale-free, it is divided
            by the tokens' mean squared distance from their window's mean.
        neighborhood: odd width of the square of clusters that a token may join.
        reconstruction_neighbors: nearest clusters that a token is rebuilt from; None for those that
            it joined in the last round, by how much it belongs to each.
        scale_free: whether the temperature adapts to the scale of the features.
        size_aware: whether a cluster counts in attention as often as it has tokens.
        keep_detail: whether a rebuilt token keeps what it was beside its clusters, changed as the
            blocks changed the differences between clusters.
        mean_values: whether a cluster brings to attention the mean of its tokens' values. Without
            it the value is too large: layer norm divides a cluster by its own deviation, which is
            smaller than its tokens'.

    Raises:
        InputError: a value is out of its range; the message names it.
    """

    location: int | float = 0.5
    clusters: int | float = 81
    iterations: int = 5
    temperature: float = 15.0
    neighborhood: int = 5
    reconstruction_neighbors: int | None = None
    scale_free: bool = True
    size_aware: bool = True
    keep_detail: bool = True
    mean_values: bool = True

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.generic):  # a NumPy number, made one of Python's
                object.__setattr__(self, field.name, value.item())
        neighbors = self.reconstruction_neighbors
        rules: dict[str, tuple[bool, str]] = {
            "location": (
                _is_count(self.location, 0) or _is_fraction(self.location),
                "a block number (0 or more) or a fraction of the depth",
            ),
            "clusters": (
                _is_fraction(self.clusters) or _is_square(self.clusters),
                "a square such as 81, or a fraction of the window",
            ),
            "iterations": (_is_count(self.iterations, 1), "a whole number from 1 on"),
            "temperature": (
                _is_number(self.temperature, (int, float)) and 0 < self.temperature < math.inf,
                "a number above 0",
            ),
            "neighborhood": (
                _is_count(self.neighborhood, 1) and self.neighborhood % 2 == 1,
                "an odd number such as 5",
            ),
            "reconstruction_neighbors": (
                neighbors is None or _is_count(neighbors, 1),
                "a whole number from 1 on, or None",
            ),
        }
        for name in ("scale_free", "size_aware", "keep_detail", "mean_values"):
            rules[name] = isinstance(getattr(self, name), bool), "True or False"
        for name, (holds, expected) in rules.items():
            if not holds:
                raise InputError(
                    f"Hourglass {name} is {getattr(self, name)!r}; it must be {expected}"
                )

    def block(self, depth: int) -> int:
        """Number of blocks that run on all tokens in a network of ``depth`` blocks.

        Raises:
            InputError: the location lies beyond the network's last block.
        """
        if isinstance(self.location, float):
            return min(round(self.location * depth), depth - 1)
        if self.location >= depth:
            raise InputError(
                f"Hourglass location {self.location} lies beyond the last block of a network "
                f"of {depth} blocks; choose 0 to {depth - 1}"
            )
        return self.location

    def cluster_side(self, window: int) -> int:
        """Side of the square of clusters that stands for a ``window`` x ``window`` window.

        Raises:
            InputError: there would be more clusters than tokens.
        """
        if isinstance(self.clusters, float):
            return max(1, round(window * math.sqrt(self.clusters)))
        side = math.isqrt(self.clusters)
        if side > window:
            raise InputError(
                f"Hourglass clusters {self.clusters} exceed the {window * window} tokens of a "
                f"{window}x{window} window; choose at most that"
            )
        return side


def _is_number(value: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_count(value: Any, least: int) -> bool:
    return _is_number(value, int) and value >= least


def _is_square(value: Any) -> bool:
    return _is_count(value, 1) and math.isqrt(value) ** 2 == value


def _is_fraction(value: object) -> bool:
    return isinstance(value, float) and 0 < value < 1


PRESETS: dict[str, Hourglass | None] = {
    "exact": None,
    "quality": Hourglass(location=7 / 12, clusters=81 / 196),
    "balanced": Hourglass(location=1 / 2, clusters=49 / 196),
    "fast": Hourglass(location=1 / 6, clusters=81 / 196),
}


def resolve(setting: Hourglass | str | None) -> Hourglass | None:
    """The setting itself, or the one a preset's name stands for (None is exact).

    Raises:
        InputError: no preset has that name.
        TypeError: the setting is of another type.
    """
    if isinstance(setting, str):
        if setting not in PRESETS:
            raise InputError(
                f"no speed setting is called {setting!r}; choose one of {', '.join(PRESETS)}"
            )
        return PRESETS[setting]
    if setting is None or isinstance(setting, Hourglass):
        return setting
    raise TypeError(
        f"a speed setting is an Hourglass, a preset's name or None, not {type(setting).__name__}"
    )


def fitting(setting: Hourglass | str | None, depth: int, window: int) -> Hourglass | None:
    """``resolve``, and a check that the setting fits a network.

    Arguments:
        setting: an ``Hourglass``, a preset's name, or None for exact.
        depth: blocks of the network's image encoder.
        window: side in tokens of the windows that tokens are clustered in.

    Raises:
        InputError: no preset has that name, or the setting does not fit the network.
        TypeError: the setting is of another type.
    """
    hourglass = resolve(setting)
    if hourglass is not None:
        hourglass.block(depth)
        hourglass.cluster_side(window)
    return hourglass
