"""Attention with relative positions in PyTorch's fused kernels, where scores never reach memory.

Queries and keys are widened so that their products hold what is added to scores: a query brings its
score for every row and every column, a key says which row and column are its own.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from expedit_sam.kept import kept
from expedit_sam.model.relative_positions import relative_positions

# Side in tokens of a window from which on quarters are worth the queries they repeat.
_LARGE = 32


def attend_fused(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tables: tuple[Tensor, Tensor] | None,
    window: tuple[int, int],
    key_bias: Tensor | None,
) -> Tensor:
    """``attend_sequences`` in one call."""
    wide_q, wide_k, wide_v = (
        wide.transpose(0, 1) for wide in _widened(q, k, v, tables, window, key_bias, sides=1)
    )
    out = F.scaled_dot_product_attention(wide_q, wide_k, wide_v, scale=1.0)
    return out[0, ..., : q.shape[-1]]


def has_quarters(window: tuple[int, int]) -> bool:
    """Whether a window (h, w) can be attended in quarters, and is large enough to gain."""
    return min(window) >= _LARGE and not any(side % 2 for side in window)


def attend_in_quarters(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tables: tuple[Tensor, Tensor] | None,
    window: tuple[int, int],
    key_bias: Tensor | None,
) -> Tensor:
    """``attend_sequences`` on a CPU, to the keys of each quarter of the window by themselves.

    For a quarter, queries bring half as many scores. What they take from it counts by the quarter's
    share of the sum that softmax divides by (FlashAttention, arXiv 2205.14135, section 3.1).
    """
    wide = _widened(q, k, v, tables, window, key_bias, sides=2)
    out, log_sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*wide, scale=1.0)
    shares = torch.softmax(log_sums, dim=1).to(out.dtype)[..., None]
    out = out[..., : q.shape[-1]]
    attended = out[:, 0] * shares[:, 0]
    for quarter in range(1, 4):
        attended.addcmul_(out[:, quarter], shares[:, quarter])
    return attended


def _widened(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tables: tuple[Tensor, Tensor] | None,
    window: tuple[int, int],
    key_bias: Tensor | None,
    sides: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of each part of a window that is cut into ``sides`` x ``sides``.

    Returns:
        Sxpartsx(h*w)xC queries, Sxpartsx(h*w/parts)xC keys and values.
    """
    part = (window[0] // sides, window[1] // sides)

    def in_parts(x: Tensor) -> Tensor:
        return x.unflatten(1, (sides, part[0], sides, part[1])).transpose(2, 3).flatten(3, 4)

    scaled = q * q.shape[-1] ** -0.5
    wide_q = [scaled[:, None, None].expand(-1, sides, sides, -1, -1)]
    wide_k, wide_v = [in_parts(k)], [in_parts(v)]
    if tables is not None:
        rows, columns = (
            relative_positions(table, size).to(q.dtype)
            for table, size in zip(tables, window, strict=True)
        )
        by_place = q.unflatten(1, window)
        by_row = torch.einsum("syxd,ykd->syxk", by_place, rows).flatten(1, 2)
        by_column = torch.einsum("syxd,xkd->syxk", by_place, columns).flatten(1, 2)
        by_row = by_row.unflatten(2, (sides, 1, -1)).permute(0, 2, 3, 1, 4)
        by_column = by_column.unflatten(2, (1, sides, -1)).permute(0, 2, 3, 1, 4)
        wide_q += [scores.expand(-1, sides, sides, -1, -1) for scores in (by_row, by_column)]
        wide_k.append(_own_places(part, k.device, k.dtype).expand(*wide_k[0].shape[:-1], -1))
    if key_bias is not None:
        wide_q.append(torch.ones_like(wide_q[0][..., :1]))
        wide_k.append(in_parts(key_bias[..., None].to(k.dtype)))
    # The fastest kernels need q, k and v of one width, a multiple of eight.
    channels = sum(some.shape[-1] for some in wide_q)
    channels += -channels % 8
    return (
        _side_by_side(wide_q, channels).flatten(1, 2),
        _side_by_side(wide_k, channels).flatten(1, 2),
        _side_by_side(wide_v, channels).flatten(1, 2),
    )


def _side_by_side(parts: list[Tensor], channels: int) -> Tensor:
    """Next to each other, zeros behind."""
    missing = channels - sum(part.shape[-1] for part in parts)
    zeros = parts[0].new_zeros(()).expand(*parts[0].shape[:-1], missing)
    return torch.cat([*parts, zeros], dim=-1)


@kept
def _own_places(window: tuple[int, int], device: torch.device, dtype: torch.dtype) -> Tensor:
    """(h*w)x(h+w), for each key a one at its row and a one at its column, else zeros."""
    height, width = window
    places = torch.arange(height * width, device=device)
    own = [F.one_hot(places // width, height), F.one_hot(places % width, width)]
    return torch.cat(own, dim=-1).to(dtype)
