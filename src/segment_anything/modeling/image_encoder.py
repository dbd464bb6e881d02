"""The image encoder and the functions it is made of, under the original's names."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from expedit_sam.model.attention import (
    Attention,
    merge_windows,
    partition_windows,
)
from expedit_sam.model.block import Block
from expedit_sam.model.image_encoder import ImageEncoderViT, PatchEmbed
from expedit_sam.model.relative_positions import relative_positions
from segment_anything.modeling.common import LayerNorm2d, MLPBlock

__all__ = [
    "Attention",
    "Block",
    "ImageEncoderViT",
    "LayerNorm2d",
    "MLPBlock",
    "PatchEmbed",
    "add_decomposed_rel_pos",
    "get_rel_pos",
    "window_partition",
    "window_unpartition",
]


def window_partition(x: Tensor, window_size: int) -> tuple[Tensor, tuple[int, int]]:
    """BxHxWxC tokens to windows padded with zeros, and the padded height and width."""
    height, width = (math.ceil(side / window_size) * window_size for side in x.shape[1:3])
    return partition_windows(x, window_size), (height, width)


def window_unpartition(
    windows: Tensor, window_size: int, pad_hw: tuple[int, int], hw: tuple[int, int]
) -> Tensor:
    """Windows back to BxHxWxC tokens, for the padded and the wanted height and width."""
    return merge_windows(windows, window_size, pad_hw)[:, : hw[0], : hw[1]]


def get_rel_pos(q_size: int, k_size: int, rel_pos: Tensor) -> Tensor:
    """q_size x k_size x C rows of an LxC table of relative positions along one axis.

    Where the sizes differ, the coarser side is stretched over the finer.
    """
    size = max(q_size, k_size)
    rows = torch.arange(q_size) * size // q_size
    columns = size - 1 - torch.arange(k_size).flip(0) * size // k_size
    return relative_positions(rel_pos, size)[rows[:, None], columns[None, :]]


def add_decomposed_rel_pos(
    attn: Tensor,
    q: Tensor,
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    q_size: tuple[int, int],
    k_size: tuple[int, int],
) -> Tensor:
    """Bx(q_h*q_w)x(k_h*k_w) attention scores plus what queries and relative positions give.

    Arguments:
        attn: the scores.
        q: Bx(q_h*q_w)xC queries.
        rel_pos_h, rel_pos_w: tables of relative positions along both axes.
        q_size, k_size: (height, width) of the grids of queries and keys.
    """
    by_place = q.unflatten(1, q_size)
    rows = get_rel_pos(q_size[0], k_size[0], rel_pos_h)
    columns = get_rel_pos(q_size[1], k_size[1], rel_pos_w)
    vertical = torch.einsum("nhwc,hkc->nhwk", by_place, rows)
    horizontal = torch.einsum("nhwc,wkc->nhwk", by_place, columns)
    return attn + (vertical[..., None] + horizontal[..., None, :]).reshape(attn.shape)
