"""A device beside the CPU, for machines without a GPU: its tensors lie and are computed with on the
CPU, but do not mix with the CPU's own, as on a GPU.

PyTorch keeps one such device for backends that it does not know, and for good once it has a name:
``register`` belongs into a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

NAME = "second"
_aten = torch.ops.aten
_COPIES = (_aten._to_copy.default, _aten.copy_.default)
# Tensors of the CPU may be indices on every device.
_INDEXING = (_aten.index.Tensor, _aten.index_put_.default, _aten._index_put_impl_.default)
# The CPU has to know what the device has found before it can go on.
_WAITING = (
    _aten._local_scalar_dense.default,
    _aten.equal.default,
    _aten.masked_select.default,
    _aten.nonzero.default,
)


def register() -> None:
    """Make ``torch.device("second")`` known."""
    backend_registration._setup_privateuseone_for_python_backend(NAME)
    # ``torch.tensor(..., device=NAME)`` fills a tensor of the CPU and moves it.
    torch._C._set_only_lift_cpu_tensors(True)


class SecondDevice(TorchDispatchMode):
    """While this is entered tensors can be made on the second device.

    Attributes:
        waits: how often the CPU had to wait for the device.
    """

    waits = 0

    def __torch_dispatch__(
        self, operator: Any, _types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        there = any(isinstance(x, _There) for x in tensors)
        if there:
            _require_one_device(operator, args, tensors)
            self.waits += operator in _WAITING or _by_truth(operator, args)
        if operator is _aten.copy_.default:
            self.waits += there and not isinstance(args[0], _There)
            there = isinstance(args[0], _There)
        elif kwargs.get("device") is not None:
            to_there = torch.device(kwargs["device"]).type == NAME
            self.waits += there and not to_there
            there, kwargs["device"] = to_there, torch.device("cpu")
        given = {id(_held(x)): x for x in tensors}  # operators in place return what they were given
        result = operator(
            *tree_map_only(_There, _held, args), **tree_map_only(_There, _held, kwargs)
        )

        def placed(x: Tensor) -> Tensor:
            return given[id(x)] if id(x) in given else _There(x) if there else x

        return tree_map_only(Tensor, placed, result)


class _There(Tensor):
    """A tensor on the second device."""

    held: Tensor
    is_cuda = True  # so that what is done on GPUs alone is done here too

    @staticmethod
    def __new__(cls, held: Tensor) -> _There:
        made: _There = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME, 0),
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, operator: Callable, *_given: Any) -> Any:
        raise RuntimeError(f"{operator} outside of SecondDevice")


def _held(x: Tensor) -> Tensor:
    return x.held if isinstance(x, _There) else x


def _require_one_device(operator: Any, args: tuple, tensors: list[Tensor]) -> None:
    """Numbers without a dimension go with tensors of any device."""
    if operator in _COPIES:
        return
    if operator in _INDEXING:
        tensors = [args[0], *(x for x in args[2:] if isinstance(x, Tensor))]
    strangers = [x for x in tensors if x.dim() and not isinstance(x, _There)]
    if strangers and len(strangers) < len(tensors):
        shapes = ", ".join(str(tuple(x.shape)) for x in strangers)
        raise RuntimeError(f"{operator} of tensors on two devices; on the CPU: {shapes}")


def _by_truth(operator: Any, args: tuple) -> bool:
    """Whether it takes what a mask has: only the device knows how many."""
    return operator in _INDEXING and any(
        index is not None and index.dtype == torch.bool for index in args[1]
    )
