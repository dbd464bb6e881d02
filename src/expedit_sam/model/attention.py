"""Self-attention of the image encoder: whole grid or windows, with decomposed relative positions.

The functions take any module with SAM's attribute names (``qkv``, ``proj``, ``num_heads``,
``rel_pos_h``, ``rel_pos_w``), so that they also serve the original package's networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from expedit_sam.hourglass.contraction import ClusterTraits
from expedit_sam.model.layers import call_linear
from expedit_sam.model.sequence_attention import attend_sequences
from expedit_sam.model.untouched import is_untouched


class Attention(nn.Module):
    """Multi-head self-attention over a grid of tokens (SAM, appendix A; MViTv2, section 4.1).

    Arguments:
        dim: channels of a token.
        num_heads: attention heads; divides ``dim``.
        qkv_bias: whether the query, key and value projections have a bias.
        use_rel_pos: whether relative positions are added to the attention scores.
        rel_pos_zero_init: accepted for compatibility; the tables always start at zero.
        input_size: height and width in tokens of the attended grid, for the tables' length.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = True,
        use_rel_pos: bool = False,
        rel_pos_zero_init: bool = True,
        input_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.use_rel_pos = use_rel_pos
        if use_rel_pos:
            if input_size is None:
                raise ValueError("use_rel_pos needs input_size, the attended grid in tokens")
            head_dim = dim // num_heads
            self.rel_pos_h = nn.Parameter(torch.zeros(2 * input_size[0] - 1, head_dim))
            self.rel_pos_w = nn.Parameter(torch.zeros(2 * input_size[1] - 1, head_dim))

    def forward(self, x: Tensor) -> Tensor:
        return attend_grid(self, x)


def attend_grid(
    attention: Any,
    x: Tensor,
    window_size: int = 0,
    traits: ClusterTraits | None = None,
    origin: Tensor | None = None,
    attend: Callable[..., Tensor] | None = None,
) -> Tensor:
    """Self-attention of BxHxWxC tokens, over the whole grid or inside each window.

    Arguments:
        attention: a module with SAM's attention parameters.
        x: BxHxWxC tokens.
        window_size: side of the windows in tokens; 0 attends over the whole grid.
        traits: where ``x`` are clusters. Log sizes are added to all scores of their key, value
            scales draw values toward that of ``origin``. Padded positions count as average.
        origin: C, layer norm's bias. Needed where traits have value scales.
        attend: takes the arguments of ``attend_sequences`` and replaces it.

    Returns:
        BxHxWxC tokens.
    """
    height, width = map(int, x.shape[1:3])  # whole numbers in a trace too
    window = (window_size, window_size) if window_size > 0 else (height, width)
    heads = attention.num_heads
    # A padded position holds a zero token, so its query, key and value are the bias alone.
    # Without padding nothing is projected, or a hook would see a token that is not there.
    is_padded = height % window[0] or width % window[1]
    fill = _projected_zero(attention.qkv, x) if is_padded else None
    qkv = _pad_to_windows(call_linear(attention.qkv, x), window, fill)
    padded_size = (int(qkv.shape[1]), int(qkv.shape[2]))
    q, k, v = _sequences(qkv, window, heads)
    usual = int(k.shape[-1]) ** -0.5
    if (scale := getattr(attention, "scale", usual)) != usual:
        k = k * (scale / usual)  # positions are not scaled
    key_bias = None
    if traits is not None and traits.log_sizes is not None:
        key_bias = _per_sequence(traits.log_sizes.to(q.dtype), window, heads, fill=0)
    if traits is not None and traits.value_scales is not None:
        assert origin is not None
        scales = _per_sequence(traits.value_scales.to(q.dtype), window, heads, fill=1)[..., None]
        origin_value = attention.qkv(origin.view(1, 1, 1, -1)).view(3, heads, 1, -1)[2]
        v = torch.lerp(origin_value.repeat(len(v) // heads, 1, 1), v, scales)
    tables = (attention.rel_pos_h, attention.rel_pos_w) if attention.use_rel_pos else None
    out = (attend or attend_sequences)(q, k, v, tables, window, key_bias)
    return call_linear(attention.proj, _grid(out, window, heads, padded_size)[:, :height, :width])


def _projected_zero(qkv: nn.Module, x: Tensor) -> Tensor | None:
    """3C, what a projection makes of a token of zeros: its bias, unless somebody replaced it."""
    if isinstance(qkv, nn.Linear) and is_untouched(qkv):
        return qkv.bias
    return qkv(x.new_zeros(1, 1, 1, x.shape[-1])).flatten()


def partition_windows(x: Tensor, window_size: int) -> Tensor:
    """Cut BxHxWxC into (B*windows) x window_size x window_size x C, zeros below and right."""
    window = (window_size, window_size)
    return _windows(_pad_to_windows(x, window), window)


def _pad_to_windows(x: Tensor, window: tuple[int, int], fill: Tensor | None = None) -> Tensor:
    """Pad BxHxWxC below and right to whole windows with the C values of ``fill``, else zeros."""
    fill = x.new_zeros(x.shape[-1]) if fill is None else fill.to(x.dtype)
    for dim, step in ((2, window[1]), (1, window[0])):
        shape = list(map(int, x.shape))  # whole numbers in a trace too
        if missing := -shape[dim] % step:
            shape[dim] = missing
            x = torch.cat([x, fill.expand(shape)], dim=dim)
    return x


def _windows(x: Tensor, window: tuple[int, int]) -> Tensor:
    """BxHxWxC, of whole windows, to (B*windows)xhxwxC."""
    x = x.unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0]))
    return x.transpose(2, 3).flatten(0, 2)


def _sequences(qkv: Tensor, window: tuple[int, int], heads: int) -> Tensor:
    """BxHxWx3C, of whole windows, to 3x(B*windows*heads)x(h*w)xd: queries, keys and values."""
    split = qkv.unflatten(3, (3, heads, -1))
    split = split.unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0]))
    # B, rows, h, columns, w, 3, heads, d
    return split.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(1, 4).flatten(2, 3)


def _per_sequence(trait: Tensor, window: tuple[int, int], heads: int, fill: float) -> Tensor:
    """BxHxW to (B*windows*heads)x(h*w), each head the same; ``fill`` for padded positions."""
    padded = _pad_to_windows(trait[..., None], window, trait.new_full((1,), fill))
    return _windows(padded, window).flatten(1).repeat_interleave(heads, dim=0)


def _grid(sequences: Tensor, window: tuple[int, int], heads: int, size: tuple[int, int]) -> Tensor:
    """The inverse of ``_sequences`` for one of the three: (B*windows*heads)x(h*w)xd to BxHxWxC."""
    rows, columns = size[0] // window[0], size[1] // window[1]
    split = sequences.unflatten(1, window).unflatten(0, (-1, rows, columns, heads))
    return split.permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4).flatten(1, 2)


def merge_windows(windows: Tensor, window_size: int, size: tuple[int, int]) -> Tensor:
    """The inverse of ``partition_windows``: BxHxWxC for size (H, W), padding dropped."""
    rows, columns = (math.ceil(side / window_size) for side in size)
    x = windows.view(-1, rows, columns, window_size, window_size, windows.shape[-1])
    x = x.transpose(2, 3).reshape(-1, rows * window_size, columns * window_size, windows.shape[-1])
    return x[:, : size[0], : size[1]]
