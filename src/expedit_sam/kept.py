"""Tensors that are made once of a few numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

import torch
from torch import Tensor


def kept(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Keep what a function makes of each of its arguments, which it is not to be written into."""
    # Not as tensors of inference, since calls that want gradients get them too.
    keeping = lru_cache(maxsize=64)(torch.inference_mode(False)(make))

    @wraps(make)
    def made(*args: Any) -> Tensor:
        # A compiler's, an exporter's or another mode's tensors may have no values.
        if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
            return make(*args)
        return keeping(*args)

    return made
