"""Relative positions of queries and keys along an axis (SAM, appendix A; MViTv2, section 4.1)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def relative_positions(table: Tensor, size: int) -> Tensor:
    """Rows of a relative-position table for every query and key coordinate along one axis.

    Arguments:
        table: Lxhead_dim, L = 2n-1 for the n the network was trained at; interpolated linearly
            where ``size`` differs from n (SAM, appendix A).
        size: grid length along the axis.

    Returns:
        size x size x head_dim: entry [i, j] belongs to query i and key j.
    """
    table = resized_table(table, size)
    places = torch.arange(size, device=table.device)
    return table[places[:, None] - places[None, :] + size - 1]


def resized_table(table: Tensor, size: int) -> Tensor:
    """A relative-position table for a grid of ``size``: (2*size-1)xhead_dim."""
    length = 2 * size - 1
    if table.shape[0] == length:
        return table
    resized = F.interpolate(table.T[None].float(), size=length, mode="linear")
    return resized[0].T.to(table.dtype)
