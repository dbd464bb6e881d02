"""Whether PyTorch does something else to operations than compute them."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad


def is_autocasting(device_type: str) -> bool:
    """Whether autocast chooses the precision of operations; not every device has it."""
    return torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)


def is_transforming() -> bool:
    """Whether ``torch.func`` or forward differentiation is at work.

    Neither can follow operations that write to given memory (``out=``), nor oneDNN's operators.
    """
    if torch.compiler.is_compiling():
        return False
    levels = torch._C._functorch.peek_interpreter_stack()
    return levels is not None or forward_ad._current_level >= 0


def is_followed() -> bool:
    """Whether autograd, a tracer, ``torch.func`` or forward differentiation follows operations."""
    return torch.is_grad_enabled() or torch.jit.is_tracing() or is_transforming()
