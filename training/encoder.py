"""The image encoder as training runs it: on a part of the canvas, in bfloat16, with gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from expedit_sam.model.compiled import attend_fused
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


def embed_part(
    encoder: ImageEncoderViT, pixels: Tensor, part: Part, drop_path: float = 0.0
) -> Tensor:
    """Bx3x16hx16w pixels, standing at ``part``, to a BxCxhxw image embedding.

    The part's tokens are what the whole canvas would give if global blocks saw only the part: a
    crop at the model's own scale for a fraction of the work. With ``drop_path``, images skip a half
    of the last block with this probability, of earlier ones less (stochastic depth, 1603.09382).
    """
    positions = part.cut(encoder.pos_embed.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    with torch.autocast(pixels.device.type, dtype=torch.bfloat16):
        tokens = encoder.patch_embed(pixels) + positions
        for i, block in enumerate(encoder.blocks):
            rate = drop_path * i / (len(encoder.blocks) - 1)
            attended = attend_block(block, tokens, block.window_size, how=attend)
            tokens = _skipped(tokens, attended, rate)
            tokens = _skipped(tokens, tokens + block.mlp(block.norm2(tokens)), rate)
    return encoder.neck(tokens.float().permute(0, 3, 1, 2))


def _skipped(before: Tensor, after: Tensor, rate: float) -> Tensor:
    if not rate:
        return after
    kept = torch.rand(len(before), 1, 1, 1, device=before.device) >= rate
    return torch.lerp(before, after, (kept / (1 - rate)).to(after.dtype))


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tables: tuple[Tensor, Tensor],
    window: tuple[int, int],
    key_bias: None,
) -> Tensor:
    """The package's ``attend_fused`` with the relative positions that a part of the grid needs."""
    rows, columns = (middle(table, size) for table, size in zip(tables, window, strict=True))
    return attend_fused(q, k, v, (rows, columns), window, key_bias)


def middle(table: Tensor, size: int) -> Tensor:
    """The rows of a relative-position table that a part of ``size`` tokens can need."""
    surplus = (len(table) - (2 * size - 1)) // 2
    return table[surplus : len(table) - surplus]
