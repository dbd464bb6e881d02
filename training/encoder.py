"""The image encoder as training runs it: on a part of the canvas, in bfloat16, with gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from bfloat16 import bfloat16_weights
from torch import Tensor, nn
from torch.func import functional_call

from expedit_sam.model.block import attend_block
from expedit_sam.model.fused_attention import attend_fused
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


def embed_part(
    encoder: ImageEncoderViT, pixels: Tensor, part: Part, drop_path: float = 0.0
) -> Tensor:
    """Bx3x16hx16w pixels, standing at ``part``, to a BxCxhxw image embedding.

    The part's tokens are what the whole canvas would give if global blocks saw only the part: a
    crop at the model's own scale for a fraction of the work. With ``drop_path``, images skip a half
    of the last block with this probability, of earlier ones less (stochastic depth, 1603.09382).
    """
    shares = _drawn_shares(drop_path, len(encoder.blocks), pixels)
    network = LastTokens(encoder)
    # What is added up or normalised stays in float32.
    weights = bfloat16_weights(network, but=("norm", "pos_embed", "neck"))
    with torch.autocast(pixels.device.type, dtype=torch.bfloat16):
        tokens = functional_call(network, weights, (pixels, part, shares))
    return encoder.neck(tokens.float().permute(0, 3, 1, 2))


class LastTokens(nn.Module):
    """An encoder's last tokens of a part; each image takes its share of each half of a block."""

    def __init__(self, encoder: ImageEncoderViT) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor, part: Part, shares: Tensor) -> Tensor:
        encoder: Any = self.encoder
        positions = part.cut(encoder.pos_embed.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        tokens = encoder.patch_embed(pixels) + positions
        for block, (attention, feed_forward) in zip(encoder.blocks, shares, strict=True):
            attended = attend_block(block, tokens, block.window_size, attend=attend)
            tokens = torch.lerp(tokens, attended, attention)
            tokens = torch.lerp(tokens, tokens + block.mlp(block.norm2(tokens)), feed_forward)
        return tokens


def _drawn_shares(drop_path: float, depth: int, pixels: Tensor) -> Tensor:
    """depth x 2 x B x1x1x1: how much of each half of a block an image takes, 0 if it skips it."""
    rates = torch.linspace(0, drop_path, depth, device=pixels.device)[:, None, None]
    kept = torch.rand(depth, 2, len(pixels), device=pixels.device) >= rates
    return (kept / (1 - rates))[..., None, None, None]


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
