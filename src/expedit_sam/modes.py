"""Whether PyTorch does something else to operations than compute them."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad


def is_autocasting(device_type: str) -> bool:
    """Whether operations choose their precision themselves; not every device has that."""
    return torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)


def is_transforming() -> bool:
    """Whether ``torch.func`` or forward differentiation is at work.

    Neither follows numbers into memory that an operation is told to write to, nor through oneDNN's
    operators.
    """
    if torch.compiler.is_compiling():
        return False
    levels = torch._C._functorch.peek_interpreter_stack()
    return levels is not None or forward_ad._current_level >= 0
