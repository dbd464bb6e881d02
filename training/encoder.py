"""The image encoder as training runs it: on a part of the canvas, in bfloat16, with gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from expedit_sam.model.attention import relative_positions
from expedit_sam.model.image_encoder import ImageEncoderViT, attend_block


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
            tokens = attend_block(block, tokens, block.window_size, how=attend)
            tokens = tokens + block.mlp(block.norm2(tokens))
    return encoder.neck(tokens.float().permute(0, 3, 1, 2))


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tables: tuple[Tensor, Tensor] | None,
    window: tuple[int, int],
    _: None,
) -> Tensor:
    """The package's ``attend_sequences`` in few large operations, which autograd likes better.

    With relative positions, queries and keys are widened so that their products hold the position
    scores too: a query brings its score for every row and every column, a key says which row and
    column are its own. The bias of every pair costs no addition of its own.
    """
    height, width = window
    scaled = q * q.shape[-1] ** -0.5
    if tables is not None:
        by_place = q.unflatten(1, window)
        rows = relative_positions(middle(tables[0], height), height).to(q.dtype)
        columns = relative_positions(middle(tables[1], width), width).to(q.dtype)
        by_row = torch.einsum("nywd,ykd->nywk", by_place, rows).flatten(1, 2)
        by_column = torch.einsum("nywd,wkd->nywk", by_place, columns).flatten(1, 2)
        places = torch.arange(height * width, device=q.device)
        own_row = F.one_hot(places // width, height).to(k.dtype)
        own_column = F.one_hot(places % width, width).to(k.dtype)
        own = torch.cat([own_row, own_column], dim=-1).expand(len(k), -1, -1)
        scaled = torch.cat([scaled, by_row, by_column], dim=-1)
        k = torch.cat([k, own], dim=-1)
    return (scaled @ k.transpose(1, 2)).softmax(-1, dtype=v.dtype) @ v


def middle(table: Tensor, size: int) -> Tensor:
    """The rows of a relative-position table that a part of ``size`` tokens can need."""
    surplus = (len(table) - (2 * size - 1)) // 2
    return table[surplus : len(table) - surplus]
