"""The image encoder compiled for a GPU: fused operations, positions carried by queries and keys."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from expedit_sam.hourglass.contraction import ClusterTraits, Contraction, contract
from expedit_sam.kept import kept
from expedit_sam.model.attention import relative_positions
from expedit_sam.model.block import attend_block
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
    limit = max(torch._dynamo.config.cache_size_limit, 128)
    torch._dynamo.config.cache_size_limit = limit  # PyTorch 2.6 has no recompile_limit
    compiled = partial(torch.compile, fullgraph=True, dynamic=False)
    run = compiled(_run_block)
    return _CompiledSteps(run, run, compiled(contract), compiled(Contraction.expand))


def _run_block(
    block: Any, x: Tensor, window_size: int, traits: ClusterTraits | None = None
) -> Tensor:
    """``run_block`` of the image encoder in one piece."""
    x = attend_block(block, x, window_size, traits, attend_fused)
    return x + block.mlp(block.norm2(x))


def attend_fused(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tables: tuple[Tensor, Tensor] | None,
    window: tuple[int, int],
    key_bias: Tensor | None,
) -> Tensor:
    """``attend_sequences`` in one call whose scores never reach memory.

    Queries and keys are widened so that their products hold what is added to scores: a query brings
    its score for every row and every column, a key says which row and column are its own.
    """
    head_dim = q.shape[-1]
    wide_q, wide_k = [q * head_dim**-0.5], [k]
    if tables is not None:
        rows, columns = (
            relative_positions(table, size).to(q.dtype)
            for table, size in zip(tables, window, strict=True)
        )
        by_place = q.unflatten(1, window)
        wide_q.append(torch.einsum("syxd,ykd->syxk", by_place, rows).flatten(1, 2))
        wide_q.append(torch.einsum("syxd,xkd->syxk", by_place, columns).flatten(1, 2))
        wide_k.append(_own_places(window, k.device, k.dtype).expand(len(k), -1, -1))
    if key_bias is not None:
        wide_q.append(torch.ones_like(q[..., :1]))
        wide_k.append(key_bias[..., None].to(k.dtype))
    q, k = torch.cat(wide_q, dim=-1), torch.cat(wide_k, dim=-1)
    # The fastest kernels need q, k and v of one width, a multiple of eight.
    channels = q.shape[-1] + -q.shape[-1] % 8
    q, k, v = (F.pad(x, (0, channels - x.shape[-1]))[None] for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)[0, ..., :head_dim]


@kept
def _own_places(window: tuple[int, int], device: torch.device, dtype: torch.dtype) -> Tensor:
    """(h*w)x(h+w), for each key a one at its row and a one at its column, else zeros."""
    height, width = window
    places = torch.arange(height * width, device=device)
    own = [F.one_hot(places // width, height), F.one_hot(places % width, width)]
    return torch.cat(own, dim=-1).to(dtype)
