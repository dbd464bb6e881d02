"""Products of matrices on a CPU, by whichever of PyTorch's two libraries is faster there."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expedit_sam.modes import is_transforming


def _onednn_types() -> set[torch.dtype]:
    """The types that oneDNN's own operator multiplies faster on this CPU than PyTorch's.

    PyTorch takes MKL for float32. That is Intel's; on AMD's CPUs with AVX-512 it reaches half to
    nine tenths of oneDNN's rate. For bfloat16 it takes oneDNN, but adds a bias in another pass.
    """
    # PyTorch 2.10 cannot tell what CPU it is on.
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.cpu, "get_capabilities")):
        return set()
    cpu = torch.cpu.get_capabilities()
    is_amd = cpu.get("cpu_name", "").startswith("AMD")
    types = {torch.float32: is_amd and cpu.get("avx512_f"), torch.bfloat16: cpu.get("amx_bf16")}
    return {dtype for dtype, is_faster in types.items() if is_faster}


_ONEDNN_TYPES = _onednn_types()
# Numbers in a matrix from which on oneDNN, which takes one product at a time, is worth its calls.
# MKL takes a batch at once; a window's scores are fewer.
_LARGE = 2**16


def has_bfloat16_products() -> bool:
    """Whether this CPU has matrix units that multiply bfloat16 (AMX), and PyTorch uses them."""
    return torch.backends.mkldnn.is_available() and torch.cpu._is_amx_tile_supported()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``, by oneDNN where that is faster."""
    if not _is_for_onednn(x):
        return F.linear(x, weight, bias)
    return _linear_by_onednn(x, weight, bias)


def activated_linear(x: Tensor, weight: Tensor, bias: Tensor, activation: nn.Module) -> Tensor:
    """A linear layer and its activation, GELU in one pass where oneDNN is faster."""
    exact_gelu = isinstance(activation, nn.GELU) and activation.approximate == "none"
    if not (exact_gelu and _is_for_onednn(x)):
        return activation(F.linear(x, weight, bias))
    return _linear_by_onednn(x, weight, bias, "gelu")


def multiplies_batches(x: Tensor) -> bool:
    """Whether threads share out the products of a batch, instead of each product."""
    return not _is_for_onednn(x)


def row_products(x: Tensor, y: Tensor) -> Tensor:
    """BxMxK and BxNxK to BxMxN products of their rows, by oneDNN where that is faster."""
    if not (_is_for_onednn(x) and _are_large(x, y)):
        return torch.bmm(x, y.transpose(1, 2))
    products = x.new_empty(len(x), x.shape[1], y.shape[1])
    for place, left, right in zip(products, x, y, strict=True):
        place.copy_(_linear_by_onednn(left, right))
    return products


def add_row_products(to: Tensor, x: Tensor, y: Tensor, factor: float = 1.0) -> None:
    """Add ``factor`` times ``row_products(x, y)`` to BxMxN."""
    # oneDNN would copy a transposed x first, and has to add in another pass over memory.
    if x.stride(2) != 1 or not (_is_for_onednn(x) and _are_large(x, y)):
        to.baddbmm_(x, y.transpose(1, 2), alpha=factor)
        return
    for place, left, right in zip(to, x, y, strict=True):
        place.add_(_linear_by_onednn(left, right), alpha=factor)


def _linear_by_onednn(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none"
) -> Tensor:
    """A linear layer; ``activation`` is "none" or "gelu"."""
    # The operator takes a thousand times as long for a weight with gaps in memory.
    if not (weight.is_contiguous() or weight.T.is_contiguous()):
        weight = weight.contiguous()
    bias = bias if bias is None else bias.contiguous()
    # The last argument is GELU's approximation: none.
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none")


def _are_large(x: Tensor, y: Tensor) -> bool:
    """Whether BxMxK and BxNxK are large enough for one call of oneDNN each."""
    rows, columns, inner = x.shape[1], y.shape[1], x.shape[2]
    return max(rows * columns, rows * inner, columns * inner) >= _LARGE


def _is_for_onednn(x: Tensor) -> bool:
    return (
        x.dtype in _ONEDNN_TYPES
        and x.device.type == "cpu"
        # Graphs, and whatever counts or rewrites operations, need to see a linear layer.
        and not (torch.compiler.is_compiling() or torch.jit.is_tracing())
        and not (torch._C._len_torch_dispatch_stack() or is_transforming())
        # The operator supports neither gradients nor autocast.
        and not (torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"))
    )
