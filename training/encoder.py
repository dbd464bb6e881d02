"""The image encoder as training runs it: on a part of the canvas, in bfloat16, with gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from expedit_sam.model.attention import (
    Attention,
    merge_windows,
    partition_windows,
    relative_positions,
)
from expedit_sam.model.image_encoder import ImageEncoderViT


@dataclass(frozen=True)
class Part:
    """A rectangle of the encoder's grid, in tokens; its corner lies on a window's corner."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, grid: Tensor) -> Tensor:
        """...xHxW to the part's ...xheightxwidth."""
        return grid[..., self.top : self.top + self.height, self.left : self.left + self.width]


def embed_part(encoder: ImageEncoderViT, pixels: Tensor, part: Part) -> Tensor:
    """1x3x16hx16w pixels, standing at ``part``, to a 1xCxhxw image embedding.

    The part's tokens are what the whole canvas would give if global blocks saw only the part: a
    crop at the model's own scale for a fraction of the work.
    """
    positions = part.cut(encoder.pos_embed.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    with torch.autocast(pixels.device.type, dtype=torch.bfloat16):
        tokens = encoder.patch_embed(pixels) + positions
        for block in encoder.blocks:
            tokens = tokens + attend(block.attn, block.norm1(tokens), block.window_size)
            tokens = tokens + block.mlp(block.norm2(tokens))
    return encoder.neck(tokens.float().permute(0, 3, 1, 2))


def attend(attention: Attention, x: Tensor, window_size: int) -> Tensor:
    """The package's attention, in few large operations, for autograd (it keeps all scores)."""
    size = x.shape[1:3]
    qkv = attention.qkv(x)
    if window_size > 0:
        qkv = partition_windows(qkv, window_size, fill=attention.qkv.bias)
    batch, height, width, _ = qkv.shape
    heads = attention.num_heads
    q, k, v = qkv.view(batch, height * width, 3, heads, -1).permute(2, 0, 3, 1, 4)
    scale = q.shape[-1] ** -0.5
    if attention.use_rel_pos:
        q, k = with_relative_positions(attention, q * scale, k, (height, width))
    else:
        q = q * scale
    out = (q @ k.transpose(-1, -2)).softmax(-1, dtype=v.dtype) @ v
    out = out.transpose(1, 2).reshape(batch, height, width, -1)
    if window_size > 0:
        out = merge_windows(out, window_size, (size[0], size[1]))
    return attention.proj(out)


def with_relative_positions(
    attention: Attention, q: Tensor, k: Tensor, grid: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Scaled queries and keys widened so that their products hold the position scores too.

    A query brings its score for every row and every column, a key says which row and column are
    its own: the bias of every pair costs no addition of its own.
    """
    height, width = grid
    unscaled = (q * q.shape[-1] ** 0.5).unflatten(2, (height, width))
    rows = relative_positions(middle(attention.rel_pos_h, height), height).to(q.dtype)
    columns = relative_positions(middle(attention.rel_pos_w, width), width).to(q.dtype)
    by_row = torch.einsum("nhywd,ykd->nhywk", unscaled, rows).flatten(2, 3)
    by_column = torch.einsum("nhywd,wkd->nhywk", unscaled, columns).flatten(2, 3)
    places = torch.arange(height * width, device=q.device)
    own_row = F.one_hot(places // width, height).to(k.dtype)
    own_column = F.one_hot(places % width, width).to(k.dtype)
    own = torch.cat([own_row, own_column], dim=-1).expand(*k.shape[:2], -1, -1)
    return torch.cat([q, by_row, by_column], dim=-1), torch.cat([k, own], dim=-1)


def middle(table: Tensor, size: int) -> Tensor:
    """The rows of a relative-position table that a part of ``size`` tokens can need."""
    surplus = (len(table) - (2 * size - 1)) // 2
    return table[surplus : len(table) - surplus]
