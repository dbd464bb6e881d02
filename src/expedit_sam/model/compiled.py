"""The image encoder compiled for a GPU: fused operations, positions added inside the attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import flex_attention

from expedit_sam.hourglass.contraction import ClusterTraits
from expedit_sam.hourglass.settings import Hourglass
from expedit_sam.model.attention import relative_positions
from expedit_sam.model.image_encoder import ImageEncoderViT, attend_block, encode


def compile_encoder(encoder: ImageEncoderViT) -> None:
    """Let ``torch.compile`` make the image encoder's kernels, in place.

    Every speed setting and number of images is compiled when it first runs, which takes a minute
    or more; worth it for many images on a GPU. Results differ from the plain ones by rounding.
    """
    encoder.encode = torch.compile(_encode, fullgraph=True, dynamic=False)


def _encode(encoder: Any, pixels: Tensor, hourglass: Hourglass | None) -> Tensor:
    return encode(encoder, pixels, hourglass, _run_block)


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
    """``attend_sequences`` whose scores never reach memory, once compiled (FlexAttention)."""
    if tables is None:
        mask = None if key_bias is None else key_bias[:, None]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    places = q.unflatten(1, window)
    rows, columns = (
        relative_positions(table, size) for table, size in zip(tables, window, strict=True)
    )
    vertical = torch.einsum("syxd,ykd->syxk", places, rows).flatten(1, 2)
    horizontal = torch.einsum("syxd,xkd->syxk", places, columns).flatten(1, 2)
    width = window[1]

    def with_positions(score: Tensor, some: Tensor, _: Tensor, query: Tensor, key: Tensor):
        score = score + vertical[some, query, key // width] + horizontal[some, query, key % width]
        return score if key_bias is None else score + key_bias[some, key]

    out = flex_attention(q[:, None], k[:, None], v[:, None], score_mod=with_positions)
    assert isinstance(out, Tensor)
    return out[:, 0]
