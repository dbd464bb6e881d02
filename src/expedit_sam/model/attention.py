"""Self-attention of the image encoder: whole grid or windows, with decomposed relative positions.

The functions take any module with SAM's attribute names (``qkv``, ``proj``, ``num_heads``,
``rel_pos_h``, ``rel_pos_w``), so that they also serve the original package's networks.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Scores of one step of attention with a bias; small enough to stay in a CPU's second-level cache.
_BIAS_ELEMENTS_PER_STEP = {"cpu": 2**19, "cuda": 2**26}


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
    attention: Any, x: Tensor, window_size: int = 0, log_sizes: Tensor | None = None
) -> Tensor:
    """Self-attention of BxHxWxC tokens, over the whole grid or inside each window.

    Arguments:
        attention: a module with SAM's attention parameters.
        x: BxHxWxC tokens.
        window_size: side of the windows in tokens; 0 attends over the whole grid.
        log_sizes: BxHxW, added to every score of that key: the logarithm of a cluster's size over
            the average one. Padded positions count as average.

    Returns:
        BxHxWxC tokens.
    """
    _, height, width, _ = x.shape
    qkv = attention.qkv(x)
    if window_size > 0:
        # A padded position holds a zero token, so its query, key and value are the bias alone.
        qkv = partition_windows(qkv, window_size, fill=attention.qkv.bias)
        if log_sizes is not None:
            log_sizes = partition_windows(log_sizes[..., None], window_size)[..., 0]
    out = _attend(attention, qkv, log_sizes)
    if window_size > 0:
        out = merge_windows(out, window_size, (height, width))
    return attention.proj(out)


def _attend(attention: Any, qkv: Tensor, log_sizes: Tensor | None) -> Tensor:
    """Attention from projected BxHxWx3C tokens to BxHxWxC ones, before the output projection."""
    batch, height, width, channels = qkv.shape
    heads = attention.num_heads
    # Three tensors of Bxheadsx(H*W)xhead_dim.
    split = qkv.view(batch, height, width, 3, heads, -1)
    q, k, v = split.permute(3, 0, 4, 1, 2, 5).flatten(3, 4)
    key_bias = None if log_sizes is None else log_sizes.reshape(batch, 1, 1, -1)
    if attention.use_rel_pos:
        out = _attend_with_relative_positions(attention, q, k, v, (height, width), key_bias)
    else:
        mask = None if key_bias is None else key_bias.to(q.dtype)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).reshape(batch, height, width, channels // 3)


def _attend_with_relative_positions(
    attention: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grid: tuple[int, int],
    key_bias: Tensor | None,
) -> Tensor:
    """softmax(q k / sqrt(d) + vertical + horizontal bias) v, the bias never whole in memory."""
    height, width = grid
    batch, heads, length, head_dim = q.shape
    by_place = q.reshape(batch, heads, height, width, head_dim)
    vertical = torch.einsum(
        "nhywd,ykd->nhywk", by_place, relative_positions(attention.rel_pos_h, height)
    ).reshape(batch * heads, length, height, 1)
    horizontal = torch.einsum(
        "nhywd,wkd->nhywk", by_place, relative_positions(attention.rel_pos_w, width)
    ).reshape(batch * heads, length, 1, width)
    if key_bias is not None:
        key_bias = key_bias.expand(batch, heads, 1, length).reshape(-1, 1, height, width)

    q, k, v = (t.reshape(batch * heads, length, head_dim) for t in (q * head_dim**-0.5, k, v))
    out = torch.empty_like(q)
    for images, rows in _steps(batch * heads, length, q.device.type):
        bias = vertical[images, rows] + horizontal[images, rows]
        if key_bias is not None:
            bias += key_bias[images]
        scores = torch.baddbmm(bias.flatten(2), q[images, rows], k[images].transpose(1, 2))
        out[images, rows] = scores.softmax(dim=-1) @ v[images]
    return out.view(batch, heads, length, head_dim)


def _steps(sequences: int, length: int, device_type: str) -> list[tuple[slice, slice]]:
    """Slices over sequences and query rows whose length x length scores fit the step budget."""
    budget = _BIAS_ELEMENTS_PER_STEP.get(device_type, _BIAS_ELEMENTS_PER_STEP["cuda"])
    together = max(1, budget // (length * length))
    rows = length if together > 1 else max(1, min(length, budget // length))
    return [
        (slice(s, s + together), slice(r, r + rows))
        for s in range(0, sequences, together)
        for r in range(0, length, rows)
    ]


def relative_positions(table: Tensor, size: int) -> Tensor:
    """Rows of a relative-position table for every query and key coordinate along one axis.

    Arguments:
        table: Lxhead_dim, L = 2n-1 for the n the network was trained at; interpolated linearly
            where ``size`` differs from n (SAM, appendix A).
        size: grid length along the axis.

    Returns:
        size x size x head_dim: entry [i, j] belongs to query i and key j.
    """
    length = 2 * size - 1
    if table.shape[0] != length:
        resized = F.interpolate(table.T[None].float(), size=length, mode="linear")
        table = resized[0].T.to(table.dtype)
    places = torch.arange(size, device=table.device)
    return table[places[:, None] - places[None, :] + size - 1]


def partition_windows(x: Tensor, window_size: int, fill: Tensor | None = None) -> Tensor:
    """Cut BxHxWxC into (B*windows) x window_size x window_size x C, padding below and right.

    Arguments:
        fill: C values that padded positions hold (zeros where None).
    """
    batch, height, width, channels = x.shape
    rows, columns = math.ceil(height / window_size), math.ceil(width / window_size)
    if (rows * window_size, columns * window_size) != (height, width):
        shape = (batch, rows * window_size, columns * window_size, channels)
        padded = x.new_zeros(shape) if fill is None else fill.to(x.dtype).expand(shape).contiguous()
        padded[:, :height, :width] = x
        x = padded
    x = x.view(batch, rows, window_size, columns, window_size, channels)
    return x.transpose(2, 3).reshape(-1, window_size, window_size, channels)


def merge_windows(windows: Tensor, window_size: int, size: tuple[int, int]) -> Tensor:
    """The inverse of ``partition_windows``: BxHxWxC for size (H, W), padding dropped."""
    rows, columns = (math.ceil(side / window_size) for side in size)
    x = windows.view(-1, rows, columns, window_size, window_size, windows.shape[-1])
    x = x.transpose(2, 3).reshape(-1, rows * window_size, columns * window_size, windows.shape[-1])
    return x[:, : size[0], : size[1]]
