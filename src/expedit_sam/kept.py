"""Tensors that depend on a few numbers alone, made once and kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

import torch
from torch import Tensor


def kept(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Keep the tensors that a function makes, by its arguments; nobody may write into them."""
    # Not as inference tensors, since calls that want gradients get them too.
    keeping = lru_cache(maxsize=64)(torch.inference_mode(False)(make))

    @wraps(make)
    def made(*args: Any) -> Tensor:
        # Tensors made under a compiler, an exporter or another mode may have no values to keep.
        if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
            return make(*args)
        return keeping(*args)

    return made
