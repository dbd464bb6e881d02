"""The mask decoder's last part: image tokens and mask kernels to low-res logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expedit_sam.model.image_tokens import ImageTokens
from expedit_sam.model.layers import LogitFilter
from expedit_sam.modes import is_followed
from expedit_sam.products import activated_linear, row_products

_TOKENS_PER_STEP = 1024
# Of each type of number, one twice as wide (see ``_in_image_order``).
_WIDE = {torch.float32: torch.float64, torch.float16: torch.float32, torch.bfloat16: torch.float32}

Matrix = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Upscaling:
    """A decoder's two transposed convolutions, for a grid of image tokens.

    A 2x2 transposed convolution of stride 2 is a matrix product; pixels stay in the order of the
    tokens they came from until only the masks are left to rearrange.

    Attributes:
        first, second: weight and bias of the linear layers that the convolutions are.
        norm, activation: between the two.
        last_activation: after the second.
        logit_filter: what logits pass last; None for nothing.
        grid: (h, w) of tokens.
    """

    first: Matrix
    norm: nn.Module
    activation: nn.Module
    second: Matrix
    last_activation: nn.Module
    logit_filter: LogitFilter | None
    grid: tuple[int, int]

    @classmethod
    def of(cls, layers: Any, logit_filter: LogitFilter | None, grid: tuple[int, int]) -> Upscaling:
        """The upscaling of a decoder's ``output_upscaling``, as built, and its ``logit_filter``."""
        first, norm, activation, second, last_activation = layers
        return cls(
            first=as_matrix(first),
            norm=norm,
            activation=activation,
            second=as_matrix(second),
            last_activation=last_activation,
            logit_filter=logit_filter,
            grid=grid,
        )

    def part(self, seen: tuple[int, int] | None) -> tuple[int, int]:
        """Rows and columns of tokens that low-res logits are made of.

        Arguments:
            seen: (rows, columns) of the logits, from the upper left; None for all.
        """
        if seen is None:
            return self.grid
        reach = self.logit_filter.reach if self.logit_filter is not None else 0
        rows, columns = (
            min(tokens, -(-(logits + reach) // 4))
            for tokens, logits in zip(self.grid, seen, strict=True)
        )
        return rows, columns

    def logits(
        self,
        image_tokens: ImageTokens,
        kernels: Tensor,
        prompts: slice,
        part: tuple[int, int] | None = None,
    ) -> Tensor:
        """The BxMx4hx4w logits of some prompts, from their BxMx(C/8) mask kernels.

        Arguments:
            part: (rows, columns) of tokens, from the upper left, that are upscaled; None for all.
        """
        part = part or self.grid
        where = _upper_left(self.grid, part)
        pixels = image_tokens.project(*self.first, prompts, where).unflatten(-1, (4, -1))
        size = _TOKENS_PER_STEP if kernels.device.type == "cpu" else pixels.shape[1]
        norm: Any = self.norm
        logits = []
        for x in pixels.split(size, dim=1):
            x = F.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.eps)
            x = activated_linear(self.activation(x), *self.second, self.last_activation)
            logits.append(row_products(kernels, x.unflatten(-1, (4, -1)).flatten(1, -2)))
        ordered = _in_image_order(torch.cat(logits, dim=2), part)
        return ordered if self.logit_filter is None else self.logit_filter(ordered)


def _upper_left(grid: tuple[int, int], part: tuple[int, int]) -> slice | Tensor:
    """Places, in row order, of the first (rows, columns) of a grid."""
    rows, columns = part
    if columns == grid[1]:
        return slice(rows * columns)
    return torch.arange(grid[0] * grid[1]).view(grid)[:rows, :columns].flatten()


def _in_image_order(logits: Tensor, grid: tuple[int, int]) -> Tensor:
    """BxMx(h*w*16) logits to BxMx4hx4w.

    Pixels come in the order: token row, token column, row and column of the first 2x2 doubling, row
    and column of the second.
    """
    batch, masks, _ = logits.shape
    height, width = grid
    wide = _WIDE.get(logits.dtype)
    if wide is None or is_followed():
        logits = logits.view(batch, masks, height, width, 2, 2, 2, 2)
        ordered = logits.permute(0, 1, 2, 4, 6, 3, 5, 7)
        return ordered.reshape(batch, masks, height * 4, width * 4)
    # Two neighbours are copied as one number, which is ten times as fast.
    pairs = logits.view(wide).view(batch, masks, height, width, 2, 2, 2)
    ordered = pairs.permute(0, 1, 2, 4, 6, 3, 5).reshape(batch, masks, height * 4, width * 2)
    return ordered.view(logits.dtype)


def as_matrix(layer: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """The linear layer (4OxC, 4O) that a 2x2 transposed convolution of stride 2 is.

    Each pixel's 2x2 block of outputs comes row by row.
    """
    assert layer.bias is not None
    weight = layer.weight.permute(2, 3, 1, 0).reshape(-1, layer.in_channels)
    return weight, layer.bias.repeat(4)
