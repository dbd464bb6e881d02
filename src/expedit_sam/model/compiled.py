"""The image encoder compiled for a GPU."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from expedit_sam.hourglass.contraction import ClusterTraits, Contraction, contract
from expedit_sam.model.block import attend_block
from expedit_sam.model.fused_attention import attend_fused
from expedit_sam.model.image_encoder import ImageEncoderViT, Steps


def compile_encoder(encoder: ImageEncoderViT) -> None:
    """Let ``torch.compile`` make the image encoder's kernels, in place.

    Blocks of one kind share what is compiled for the first of them. Every speed setting and number
    of images is compiled when it first runs, which takes some ten seconds; worth it for many images
    on a GPU. Results differ from the plain ones by rounding.

    Raises:
        InputError: a block's forward pass is not ours.
    """
    encoder.require_own_blocks(0)
    encoder.steps = _compiled_steps()


class _CompiledSteps(Steps):
    """Compiled functions can be neither copied nor pickled: a copy is compiled anew."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _compiled_steps, ()


def _compiled_steps() -> Steps:
    # Each speed setting, number of images and kind of block counts as a recompilation.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 128)
    compiled = partial(torch.compile, fullgraph=True, dynamic=False)
    run = compiled(_run_block)
    return _CompiledSteps(run, run, compiled(contract), compiled(Contraction.expand))


def _run_block(
    block: Any, x: Tensor, window_size: int, traits: ClusterTraits | None = None
) -> Tensor:
    """``run_block`` of the image encoder in one piece."""
    x = attend_block(block, x, window_size, traits, attend_fused)
    return x + block.mlp(block.norm2(x))
