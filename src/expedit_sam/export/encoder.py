"""The image encoder as a graph that can be traced, with or without the hourglass."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from expedit_sam.hourglass.contraction import ClusterTraits
from expedit_sam.model.block import attend_block
from expedit_sam.model.image_encoder import ImageEncoderViT, Steps, encode
from expedit_sam.model.relative_positions import relative_positions

# Attention scores computed at once: one head of SAM's global attention, 64 MB in float32.
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
        steps = Steps(_run_block, _run_block)
        return encode(encoder, x.to(self.dtype), encoder.hourglass, steps).float()


def _run_block(
    block: Any, x: Tensor, window_size: int, traits: ClusterTraits | None = None
) -> Tensor:
    """``run_block`` of the image encoder on 1xHxWxC tokens or clusters."""
    x = attend_block(block, x, window_size, traits, _attend)
    return x + block.mlp(block.norm2(x))


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tables: tuple[Tensor, Tensor] | None,
    window: tuple[int, int],
    key_bias: Tensor | None,
) -> Tensor:
    """``attend_sequences`` in operations that every runtime has, a few sequences at a time."""
    number, length, head_dim = map(int, q.shape)
    step = max(1, _SCORES_PER_STEP // length**2)
    if tables is not None:
        vertical, horizontal = _position_scores(tables, q, window)
    done = []
    for start in range(0, number, step):
        some = slice(start, min(start + step, number))
        scores = (q[some] * head_dim**-0.5) @ k[some].transpose(1, 2)
        if tables is not None:
            scores = scores.view(-1, length, *window) + vertical[some] + horizontal[some]
            scores = scores.view(-1, length, length)
        if key_bias is not None:
            scores = scores + key_bias[some, None]
        done.append(scores.softmax(dim=-1) @ v[some])
    return torch.cat(done)


def _position_scores(
    tables: tuple[Tensor, Tensor], q: Tensor, window: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """What each query adds to the scores of each key row and column: SxLxhx1 and SxLx1xw."""
    height, width = window
    by_row = q.view(-1, height, width, q.shape[-1])
    vertical = by_row @ relative_positions(tables[0], height).transpose(1, 2)
    by_column = by_row.transpose(1, 2)
    horizontal = by_column @ relative_positions(tables[1], width).transpose(1, 2)
    length = height * width
    return (
        vertical.reshape(-1, length, height, 1),
        horizontal.transpose(1, 2).reshape(-1, length, 1, width),
    )


@contextmanager
def average_pooling(opset: int) -> Iterator[None]:
    """Let the exporter write ``adaptive_avg_pool2d`` to any size, as two matrix products.

    By itself it writes only sizes that divide the input's.
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
