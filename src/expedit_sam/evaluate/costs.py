"""What the image encoder computes at a setting, counted and not timed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from expedit_sam.hourglass.settings import Hourglass
from expedit_sam.model.block import Block, run_block
from expedit_sam.model.expedite import expedite
from expedit_sam.model.image_encoder import ImageEncoderViT, Steps


@dataclass(frozen=True)
class EncoderCost:
    """The work of encoding one image.

    Attributes:
        multiply_adds: of all matrix products and convolutions, clustering included.
        tokens: how many tokens each block runs on.
    """

    multiply_adds: int
    tokens: list[int]


@torch.no_grad()
def encoder_cost(encoder: ImageEncoderViT, setting: Hourglass | None) -> EncoderCost:
    """Count what a setting costs (None: the exact network), on tensors without values."""
    came_with = encoder.hourglass, encoder.steps
    tokens = []

    def count(block: Block, x: Tensor, *how: Any) -> Tensor:
        tokens.append(x.shape[1] * x.shape[2])
        return run_block(block, x, *how)

    try:
        expedite(encoder, setting)
        encoder.steps = Steps(count, count)  # not hooks: blocks with hooks take a slower way
        with FlopCounterMode(display=False, custom_mapping=_IN_PLACE) as counter:
            _run_on_shapes(encoder)
    finally:
        encoder.hourglass, encoder.steps = came_with
    return EncoderCost(counter.get_total_flops() // 2, tokens)


def _products(to: torch.Size, x: torch.Size, y: torch.Size, **_: Any) -> int:
    """Operations of BxMxN += BxMxK @ BxKxN."""
    return 2 * to.numel() * x[2]


# PyTorch's counter does not know the in-place form of this product.
_IN_PLACE = {torch.ops.aten.baddbmm_: _products}


def _run_on_shapes(encoder: ImageEncoderViT) -> None:
    shapes = {name: tensor.to("meta") for name, tensor in encoder.state_dict().items()}
    side = encoder.img_size
    functional_call(encoder, shapes, (torch.empty(1, 3, side, side, device="meta"),))
