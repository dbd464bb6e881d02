"""The image encoder as a graph that can be traced, with or without the hourglass."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from expedit_sam.model.attention import relative_positions
from expedit_sam.model.image_encoder import ImageEncoderViT, encode

# Attention scores of one step: one head of SAM's global attention, 64 MB in float32.
_SCORES_PER_STEP = 2**24


class EncoderGraph(nn.Module):
    """An image encoder of fixed input size, at the speed it is set to.

    ``encode`` with blocks in their plain form: no bands and no memory to reuse, which are for a
    CPU under PyTorch. Another runtime plans its memory itself.

    Arguments:
        encoder: the encoder; its weights are shared where the type stays.
        dtype: that it computes in; clustering and the temperature stay in float32.
    """

    def __init__(self, encoder: ImageEncoderViT, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = dtype
        self.encoder = encoder if dtype == torch.float32 else copy.deepcopy(encoder).to(dtype)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """1x3ximg_sizeximg_size normalised pixels to a 1xCxhxw image embedding, both float32."""
        encoder = self.encoder
        return encode(encoder, x.to(self.dtype), encoder.hourglass, _run_block).float()


def _run_block(block: Any, x: Tensor, window_size: int, log_sizes: Tensor | None = None) -> Tensor:
    """``run_block`` of the image encoder on 1xHxWxC tokens or clusters."""
    x = x + _attend_grid(block.attn, block.norm1(x), window_size, log_sizes)
    return x + block.mlp(block.norm2(x))


def _attend_grid(attention: Any, x: Tensor, window_size: int, log_sizes: Tensor | None) -> Tensor:
    """``attend_grid`` of the image encoder on 1xHxWxC tokens."""
    height, width, channels = map(int, x.shape[1:])
    window = (window_size, window_size) if window_size > 0 else (height, width)
    rows, columns = (
        math.ceil(side / step) for side, step in zip((height, width), window, strict=True)
    )
    # A padded position holds a zero token, so its query, key and value are the bias alone.
    qkv = _pad(attention.qkv(x), (rows * window[0], columns * window[1]), attention.qkv.bias)
    heads = attention.num_heads
    split = qkv.view(rows, window[0], columns, window[1], 3, heads, channels // heads)
    number, length = rows * columns * heads, window[0] * window[1]
    q, k, v = split.permute(4, 0, 2, 5, 1, 3, 6).reshape(3, number, length, -1).unbind()
    key_bias = None
    if log_sizes is not None:
        sizes = _pad(log_sizes[..., None], (rows * window[0], columns * window[1]))
        sizes = sizes.view(rows, window[0], columns, window[1]).transpose(1, 2)
        key_bias = sizes.reshape(-1, 1, 1, length).expand(-1, heads, 1, length)
        key_bias = key_bias.reshape(number, 1, length).to(q.dtype)
    out = _attend(attention, q, k, v, window, key_bias)
    out = out.view(rows, columns, heads, window[0], window[1], -1).permute(0, 3, 1, 4, 2, 5)
    out = out.reshape(1, rows * window[0], columns * window[1], channels)
    return attention.proj(out[:, :height, :width])


def _attend(
    attention: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: tuple[int, int],
    key_bias: Tensor | None,
) -> Tensor:
    """softmax(q k / sqrt(d) + relative positions + key bias) v, a few SxLxd sequences at a time."""
    number, length, head_dim = map(int, q.shape)
    step = max(1, _SCORES_PER_STEP // length**2)
    if attention.use_rel_pos:
        vertical, horizontal = _position_scores(attention, q, window)
    done = []
    for start in range(0, number, step):
        some = slice(start, min(start + step, number))
        scores = (q[some] * head_dim**-0.5) @ k[some].transpose(1, 2)
        if attention.use_rel_pos:
            scores = scores.view(-1, length, *window) + vertical[some] + horizontal[some]
            scores = scores.view(-1, length, length)
        if key_bias is not None:
            scores = scores + key_bias[some]
        done.append(scores.softmax(dim=-1) @ v[some])
    return torch.cat(done)


def _position_scores(attention: Any, q: Tensor, window: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """What each query adds to the scores of each key row and column: SxLxhx1 and SxLx1xw."""
    height, width = window
    by_row = q.view(-1, height, width, q.shape[-1])
    vertical = by_row @ relative_positions(attention.rel_pos_h, height).transpose(1, 2)
    by_column = by_row.transpose(1, 2)
    horizontal = by_column @ relative_positions(attention.rel_pos_w, width).transpose(1, 2)
    length = height * width
    return (
        vertical.reshape(-1, length, height, 1),
        horizontal.transpose(1, 2).reshape(-1, length, 1, width),
    )


def _pad(x: Tensor, size: tuple[int, int], fill: Tensor | None = None) -> Tensor:
    """Pad 1xHxWxC below and right to this size with the C values of ``fill``, else zeros."""
    if fill is None:
        fill = x.new_zeros(x.shape[-1])
    for dim in (1, 2):
        shape = list(map(int, x.shape))
        if missing := size[dim - 1] - shape[dim]:
            shape[dim] = missing
            x = torch.cat([x, fill.to(x.dtype).expand(shape)], dim=dim)
    return x


@contextmanager
def average_pooling(opset: int) -> Iterator[None]:
    """Lets the exporter write ``adaptive_avg_pool2d`` to any size: two matrix products.

    (By itself it knows only sizes that divide the input's.)
    """
    from torch.onnx import register_custom_op_symbolic, unregister_custom_op_symbolic

    name = "aten::adaptive_avg_pool2d"
    register_custom_op_symbolic(name, _write_average_pooling, opset)
    try:
        yield
    finally:
        unregister_custom_op_symbolic(name, opset)


def _write_average_pooling(graph: Any, x: Any, size: Any) -> Any:
    from torch.onnx import symbolic_helper

    rows, columns = (
        graph.op("Constant", value_t=_pooling_matrix(before, after))
        for before, after in zip(
            x.type().sizes()[2:], symbolic_helper._parse_arg(size, "is"), strict=True
        )
    )
    columns = graph.op("Transpose", columns, perm_i=[1, 0])
    return graph.op("MatMul", graph.op("MatMul", rows, x), columns)


def _pooling_matrix(before: int, after: int) -> Tensor:
    """after x before: what ``adaptive_avg_pool1d`` multiplies with."""
    return nn.functional.adaptive_avg_pool1d(torch.eye(before)[None], after)[0].T.contiguous()
