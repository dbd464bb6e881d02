"""A transformer block of the image encoder, on tokens or on clusters of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from expedit_sam.hourglass.contraction import ClusterTraits
from expedit_sam.model.attention import (
    Attention,
    attend_grid,
    merge_windows,
    partition_windows,
)
from expedit_sam.model.layers import MLPBlock
from expedit_sam.model.untouched import are_untouched

# Side in tokens of the cells that a network without windows is clustered in: SAM's window.
DEFAULT_WINDOW = 14
# Tokens that a CPU works on at a time, in whole rows of windows.
_TOKENS_PER_BAND = 2**10


class Block(nn.Module):
    """A transformer block: attention over windows or the whole grid, then feed-forward."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        norm_layer: Any = nn.LayerNorm,
        act_layer: type[nn.Module] = nn.GELU,
        use_rel_pos: bool = False,
        rel_pos_zero_init: bool = True,
        window_size: int = 0,
        input_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(dim)
        self.attn = Attention(
            dim,
            num_heads=num_heads,
            qkv_bias=qkv_bias,
            use_rel_pos=use_rel_pos,
            rel_pos_zero_init=rel_pos_zero_init,
            input_size=(window_size, window_size) if window_size > 0 else input_size,
        )
        self.norm2 = norm_layer(dim)
        self.mlp = MLPBlock(dim, int(dim * mlp_ratio), act_layer)
        self.window_size = window_size

    def forward(self, x: Tensor) -> Tensor:
        return run_block(self, x, self.window_size)


def run_block(
    block: Any, x: Tensor, window_size: int, traits: ClusterTraits | None = None
) -> Tensor:
    """One transformer block on BxHxWxC tokens or clusters (see ``attend_grid``)."""
    changed = isinstance(block, Block) and not all(map(are_untouched, block.children()))
    if changed and traits is None:
        return _call_parts(block, x, window_size)
    # Windows do not see each other, nor do tokens in the feed-forward layers: a CPU takes a band
    # of rows at a time, so that what is computed in between stays in its cache. In bfloat16 that
    # does not pay, because weights are arranged for the matrix units at every product.
    in_bands = x.device.type == "cpu" and x.dtype != torch.bfloat16
    whole = changed or not in_bands or torch.jit.is_tracing()
    band = x.shape[1] if whole else _band(x.shape[2], window_size)
    if window_size > 0:
        rows = zip(x.split(band, dim=1), (traits or ClusterTraits()).split(band), strict=False)
        attended = [attend_block(block, tokens, window_size, some) for tokens, some in rows]
    else:
        attended = list(attend_block(block, x, 0, traits).split(band, dim=1))
    bands = [tokens + block.mlp(block.norm2(tokens)) for tokens in attended]
    # Of one, too, ``torch.cat`` makes a copy.
    return bands[0] if len(bands) == 1 else torch.cat(bands, dim=1)


def _call_parts(block: Any, x: Tensor, window_size: int) -> Tensor:
    """A block on tokens with every part called on what the original's would get."""
    attended = block.norm1(x)
    if window_size > 0:
        windows = block.attn(partition_windows(attended, window_size))
        attended = merge_windows(windows, window_size, (x.shape[1], x.shape[2]))
    else:
        attended = block.attn(attended)
    x = x + attended
    return x + block.mlp(block.norm2(x))


def _band(width: int, window_size: int) -> int:
    """Rows of tokens that a CPU works on at a time, of a grid so wide."""
    rows = window_size or DEFAULT_WINDOW
    return rows * max(1, _TOKENS_PER_BAND // (rows * width))


def attend_block(
    block: Any,
    x: Tensor,
    window_size: int,
    traits: ClusterTraits | None = None,
    attend: Callable[..., Tensor] | None = None,
) -> Tensor:
    """The first half of a transformer block (see ``attend_grid``)."""
    # What layer norm makes of a token of zeros: its bias.
    origin = None if traits is None else block.norm1(x.new_zeros(x.shape[-1]))
    return x + attend_grid(block.attn, block.norm1(x), window_size, traits, origin, attend)


def clustering_window(blocks: Iterable[Any]) -> int:
    """Side in tokens of the windows that the hourglass clusters a network's tokens in."""
    return max(getattr(block, "window_size", 0) for block in blocks) or DEFAULT_WINDOW
