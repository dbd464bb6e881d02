"""A grid of tokens in parts with windows of one shape: whole ones, and those cut off by an edge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Stretch:
    """Adjacent windows of one length along an axis.

    Attributes:
        start, window: where the first begins and how long each is, in tokens.
        cluster_start, clusters: the same in clusters.
        number: how many windows.
    """

    start: int
    window: int
    cluster_start: int
    clusters: int
    number: int


@dataclass(frozen=True)
class Part:
    """Windows of one shape: a rectangle of the token grid and of the cluster grid."""

    down: Stretch
    across: Stretch

    @property
    def window_shape(self) -> tuple[int, int]:
        return self.down.window, self.across.window

    @property
    def cluster_shape(self) -> tuple[int, int]:
        return self.down.clusters, self.across.clusters

    @property
    def number(self) -> int:
        return self.down.number * self.across.number

    def cut_tokens(self, grid: Tensor) -> Tensor:
        """(B*number)xhxwxC tokens of the windows, copied from a BxHxWxC grid."""
        return self._cut(grid, (self.down.start, self.across.start), self.window_shape)

    def cut_clusters(self, grid: Tensor) -> Tensor:
        """(B*number)xKxC clusters of the windows, copied from a BxhxwxC grid."""
        start = (self.down.cluster_start, self.across.cluster_start)
        return self._cut(grid, start, self.cluster_shape).flatten(1, 2)

    def join(self, windows: Tensor, shape: tuple[int, int]) -> Tensor:
        """The part's rectangle of a grid, from what its windows hold.

        Arguments:
            windows: (B*number)x(h*w)xC, or without channels.
            shape: (h, w) of a window, in tokens or in clusters.

        Returns:
            BxHxWxC, or BxHxW.
        """
        split = (-1, self.down.number, self.across.number, *shape, *windows.shape[2:])
        rectangle = windows.view(split).transpose(2, 3)
        return rectangle.flatten(3, 4).flatten(1, 2)

    def _cut(self, grid: Tensor, start: tuple[int, int], shape: tuple[int, int]) -> Tensor:
        height, width = shape[0] * self.down.number, shape[1] * self.across.number
        piece = grid[:, start[0] : start[0] + height, start[1] : start[1] + width]
        windows = piece.unflatten(2, (-1, shape[1])).unflatten(1, (-1, shape[0])).transpose(2, 3)
        return windows.clone(memory_format=torch.contiguous_format).flatten(0, 2)


def parts_of(size: tuple[int, int], window: int, side: int) -> list[list[Part]]:
    """The parts of an (H, W) grid of tokens, in rows.

    Arguments:
        window: side of a window in tokens.
        side: side of the square of clusters that stands for a whole window. Windows that an edge
            cuts off get clusters in proportion, at least one along each axis.
    """
    down, across = (_stretches(length, window, side) for length in size)
    return [[Part(rows, columns) for columns in across] for rows in down]


def _stretches(length: int, window: int, side: int) -> list[Stretch]:
    """The whole windows along an axis of so many tokens, then the one that the edge cuts off."""
    number, rest = divmod(length, window)
    found = [Stretch(0, window, 0, side, number)] if number else []
    if rest:
        clusters = max(1, round(rest * side / window))
        found.append(Stretch(number * window, rest, number * side, clusters, 1))
    return found


def each(parts: list[list[Part]]) -> Iterator[Part]:
    """The parts row by row, the order of the pieces that ``assembled`` takes."""
    return (part for row in parts for part in row)


def assembled(
    parts: list[list[Part]], pieces: list[Tensor], shape: Callable[[Part], tuple[int, int]]
) -> Tensor:
    """The grid, BxHxWxC or BxHxW, of what the windows of every part hold.

    Arguments:
        parts: see ``parts_of``.
        pieces: for each part, row by row, what ``Part.join`` takes.
        shape: the shape of a part's windows, in tokens or in clusters.
    """
    following = iter(pieces)
    rows = [
        torch.cat([part.join(next(following), shape(part)) for part in row], 2) for row in parts
    ]
    return torch.cat(rows, dim=1)
