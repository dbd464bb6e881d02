"""Attention over sequences of tokens, one for each head of each window, with relative positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from expedit_sam.model.fused_attention import attend_fused, attend_in_quarters, has_quarters
from expedit_sam.model.relative_positions import resized_table
from expedit_sam.modes import is_followed, is_transforming
from expedit_sam.products import add_row_products, linear, multiplies_batches, row_products


def _scores_per_thread() -> int:
    """Attention scores in memory for each thread of this CPU: 4 MB beside a cache of 2, else 2 MB.

    In fewer steps products are larger, but what follows them finds less in a core's own cache.
    """
    # PyTorch 2.10 cannot tell what CPU it is on.
    cpu = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return 2**20 if cpu.get("l2_cache_size", 0) >= 2**21 else 2**19


# Attention scores in memory at a time: for each CPU thread, for a GPU.
_SCORES_PER_STEP = {"cpu": _scores_per_thread(), "cuda": 2**26}
# Queries of a head from which on a thread multiplies them by itself.
_QUERIES_PER_THREAD = 2**8


def attend_sequences(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tables: tuple[Tensor, Tensor] | None,
    window: tuple[int, int],
    key_bias: Tensor | None,
) -> Tensor:
    """softmax(q k / sqrt(d) + vertical + horizontal bias) v, the bias never whole in memory.

    Arguments:
        q, k, v: Sx(h*w)xd sequences, one for each head of each window.
        tables: Lxd vertical and horizontal relative positions (see ``relative_positions``); None
            for none.
        window: (h, w) of a sequence in tokens.
        key_bias: Sx(h*w), added to all scores of a key; None for none.

    Returns:
        Sx(h*w)xd.
    """
    if tables is None:
        mask = None if key_bias is None else key_bias[:, None]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    # Each pass over scores of 16 bits would convert them to 32 and back.
    if (q.dtype, q.device.type) == (torch.bfloat16, "cpu") and not is_followed():
        attend = attend_in_quarters if has_quarters(window) else attend_fused
        return attend(q, k, v, tables, window, key_bias)
    height, width = window
    length, head_dim = q.shape[1:]
    together, rows = _step(q, window)
    # One piece of memory serves all steps, unless gradients will ask for what each step made.
    learns = q.requires_grad or any(table.requires_grad for table in tables)
    # PyTorch's tracer runs a module with gradients and compares it with a run without.
    keep = (torch.is_grad_enabled() and learns) or torch.jit.is_tracing() or is_transforming()
    memory = None if keep else q.new_empty(together * rows * width * length)
    out = torch.empty_like(q).unflatten(1, window)
    for some in _slices(len(q), together):
        queries, keys, values = q[some].unflatten(1, window), k[some], v[some].transpose(1, 2)
        if rows < height:  # several steps read them
            keys, values = keys.contiguous(), values.contiguous()
        vertical, horizontal = _position_scores(q[some], tables, window)
        for part in _slices(height, rows):
            shape = (*queries[:, part].shape[:-1], height, width)
            room = None if memory is None else memory[: math.prod(shape)].view(shape)
            bias = torch.add(vertical[:, part], horizontal[:, part], out=room)
            if key_bias is not None:
                bias += key_bias[some].view(-1, 1, 1, height, width)
            scores = bias.flatten(3).flatten(1, 2)
            add_row_products(scores, queries[:, part].flatten(1, 2), keys, head_dim**-0.5)
            room = None if memory is None else scores
            attended = row_products(torch.softmax(scores, dim=-1, out=room), values)
            out[some, part] = attended.unflatten(1, (-1, width))
    return out.flatten(1, 2)


def _position_scores(
    q: Tensor, tables: tuple[Tensor, Tensor], window: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """What a query adds to the scores of each key row and column: Sxhxwxhx1 and Sxhxwx1xw.

    Each query is multiplied with every relative position once. Those between its row and the rows
    of keys are adjacent, and begin one place earlier for the next row: they are views, not copies.
    """
    height, width = window
    flipped = [
        resized_table(table, size).flip(0) for table, size in zip(tables, window, strict=True)
    ]
    length = 2 * (height + width) - 2
    scores = linear(q, torch.cat(flipped))
    sequence, row = height * width * length, width * length
    vertical = scores.as_strided(
        (len(q), height, width, height, 1), (sequence, row - 1, length, 1, 1), height - 1
    )
    horizontal = scores.as_strided(
        (len(q), height, width, 1, width),
        (sequence, row, length - 1, 1, 1),
        2 * height - 1 + width - 1,
    )
    return vertical, horizontal


def _step(q: Tensor, window: tuple[int, int]) -> tuple[int, int]:
    """How many sequences, and how many rows of their queries, to attend from at a time."""
    # A compiler cannot trace the number of threads, and divides the work itself.
    on_cpu = q.device.type == "cpu" and not torch.compiler.is_compiling()
    threads = torch.get_num_threads() if on_cpu else 1
    budget = threads * _SCORES_PER_STEP.get(q.device.type, _SCORES_PER_STEP["cuda"])
    height, width = window
    length = height * width
    together = max(1, budget // (length * length))
    # A head for each thread, so that they need not wait for each other within a product.
    has_room = budget // length >= threads * _QUERIES_PER_THREAD
    if has_room and len(q) % threads == 0 and multiplies_batches(q):
        together = max(together, threads)
    together = _even(len(q), together)
    return together, _even(height, max(1, budget // (together * length * width)))


def _even(count: int, at_most: int) -> int:
    """Size of the parts when ``count`` is divided into as few and as equal ones as possible."""
    return math.ceil(count / math.ceil(count / at_most))


def _slices(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]
