"""Sequences of queries, keys and values to attend with."""

from __future__ import annotations

import torch
from torch import Tensor

Tables = tuple[Tensor, Tensor]
Arguments = tuple[Tensor, Tensor, Tensor, Tables | None, tuple[int, int], Tensor | None]


def arguments(positions: int | None, sized: bool, window: tuple[int, int] = (4, 5)) -> Arguments:
    """Of six sequences of a window's tokens, with relative positions of a grid of this size."""
    torch.manual_seed(0)
    length = window[0] * window[1]
    q, k, v = torch.randn(3, 6, length, 8)
    tables: Tables | None = None
    if positions is not None:
        tables = (torch.randn(2 * positions - 1, 8), torch.randn(2 * positions - 1, 8))
    key_bias = torch.randn(6, length) if sized else None
    return q, k, v, tables, window, key_bias
