"""Whether modules are as they were built: only then may weights be read instead of called.

Compiled blocks ask too: before 2.9 PyTorch's compiler follows neither vars() nor sets of types.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from expedit_sam.errors import InputError

# Packages whose forward passes are known here.
_KNOWN = ("expedit_sam.", "torch.nn.modules.")
_PLAIN = (nn.Parameter, Tensor, type(None))


def is_own(thing: object, method: str) -> bool:
    """Whether a method is this package's or PyTorch's, not of somebody's subclass or patch."""
    function = getattr(type(thing), method, None)
    written_in = getattr(function, "__module__", None) or ""
    return method not in thing.__dict__ and written_in.startswith(_KNOWN)


def is_untouched(module: nn.Module) -> bool:
    """Whether calling a module runs its own forward pass on plain weights, without hooks."""
    hooks = (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )
    return not hooks and is_own(module, "forward") and not _has_wrapped_weights(module)


def _has_wrapped_weights(module: nn.Module) -> bool:
    """Whether a weight is a tensor in name only, such as torchao's quantized ones."""
    kinds = [type(weight) for weight in module._parameters.values()]
    return any(kind not in _PLAIN and hasattr(kind, "__tensor_flatten__") for kind in kinds)


def are_untouched(module: nn.Module) -> bool:
    """Whether ``is_untouched`` holds for a module and all its parts."""
    return all(map(is_untouched, module.modules()))


def require_unpatched(blocks: Iterable[Any]) -> None:
    """Raise ``InputError`` if a forward was put in a block or its attention after it was built.

    Where blocks are read instead of called, it would do nothing. accelerate's loads weights.
    """
    for number, block in enumerate(blocks):
        if "forward" in block.__dict__ or "forward" in block.attn.__dict__:
            raise InputError(
                f"block {number} has a forward of its own, which an expedited model does not call: "
                "take it off (if it is accelerate's, load the model on one device)"
            )
