"""Reading a checkpoint from a file, and a network from a checkpoint.

A checkpoint comes from a stranger: nothing in it is ever executed, and what does not fit exactly
is refused before the network sees it.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from expedit_sam.errors import CheckpointError
from expedit_sam.model.architectures import ARCHITECTURES, new_sam
from expedit_sam.model.sam import Sam
from expedit_sam.weights.transformers_format import (
    WEIGHTS_FILE,
    from_transformers,
    is_transformers,
)

_AGAIN = "fetch it again"


def read_sam(path: str | os.PathLike[str], model: str) -> Sam:
    """The network of this name with the weights of a .pth or .safetensors file, or of a folder.

    The folder is one that transformers has saved.

    Memory peaks at about the size of the weights.

    Raises:
        CheckpointError: the file cannot be read, or belongs to another network.
    """
    return assemble(read_weights(path), model, source=path)


def assemble(weights: dict[str, Tensor], model: str, source: object) -> Sam:
    """A network in evaluation mode that holds these very tensors, without a copy.

    Arguments:
        weights: float32 tensors by the name of their parameter.
        model: a name in ``ARCHITECTURES``.
        source: what an error message calls them.

    Raises:
        CheckpointError: a weight is missing, unknown or of another shape.
    """
    with torch.device("cpu"), _Uninitialized():
        sam = new_sam(ARCHITECTURES[model])
    _check_fit(_shapes(weights), _shapes(sam.state_dict()), model, source)
    sam.load_state_dict(weights, assign=True)
    return sam


class _Uninitialized(TorchFunctionMode):
    """Creates layers without their random start: neither memory nor random numbers are touched.

    (The meta device would do as well, but its first use takes PyTorch more than a second.)
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.randn:
            return torch.empty(*args, **(kwargs or {}))
        if getattr(func, "__module__", None) != "torch.nn.init":
            return func(*args, **(kwargs or {}))


def identify(shapes: Mapping[str, Sequence[int]]) -> str | None:
    """Name of the model with weights of these shapes, by its encoder's width and depth, if any."""
    width = tuple(shapes.get("image_encoder.patch_embed.proj.weight", ()))[:1]
    blocks = {name.split(".")[2] for name in shapes if name.startswith("image_encoder.blocks.")}
    for name, architecture in ARCHITECTURES.items():
        if (architecture.embed_dim,) == width and architecture.depth == len(blocks):
            return name
    return None


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The float32 tensors of a checkpoint, by the official names.

    Arguments:
        path: a .pth file (weights alone, or under "model" or "state_dict"), a .safetensors file, or
            a folder with transformers' ``model.safetensors``.

    Raises:
        CheckpointError: the file is missing, damaged, of another format, wants to run code, or
            holds something else than finite numbers.
    """
    path = Path(os.path.expanduser(path))  # noqa: PTH111  (Path's raises at unknown users)
    if (path / WEIGHTS_FILE).is_file():
        path = path / WEIGHTS_FILE
    contents = _read_safetensors(path) if _is_safetensors(path) else _read_pytorch(path)
    for wrapper in ("model", "state_dict"):
        if isinstance(contents, dict) and isinstance(contents.get(wrapper), dict):
            contents = contents[wrapper]
    if not isinstance(contents, dict) or not contents:
        raise CheckpointError(f"{path} holds no weights by name: save the network's state_dict()")
    for name, value in contents.items():
        contents[name] = _float32(path, name, value)  # in place, so that the original is freed
    return from_transformers(contents) if is_transformers(contents) else contents


def _is_safetensors(path: Path) -> bool:
    """Whether the first bytes are those of a safetensors file, as opposed to PyTorch's.

    Raises:
        CheckpointError: the file cannot be opened, or is of neither format.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder: name the checkpoint file in it")
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist: check the checkpoint's path") from None
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}): check its path and permissions"
        ) from error
    if not start:
        raise CheckpointError(f"{path} is empty: {_AGAIN}")
    if start[8:] == b"{":  # after the header's length, the header: JSON
        return True
    if start.startswith((b"PK\x03\x04", b"\x80")):  # a zip archive, or an old bare pickle
        return False
    raise CheckpointError(f"{path} is no PyTorch or safetensors file: name a SAM checkpoint")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        # Not mapped: the weights outlive the file, and mapped pages would count twice.
        return load_file(path, backend="pread")
    except Exception as error:
        raise CheckpointError(f"{path} is truncated or damaged: {_AGAIN}") from error


def _read_pytorch(path: Path) -> Any:
    try:
        with path.open("rb") as file:  # given a path, torch.load would go by the suffix
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} was refused, because it holds more than weights and could run code: "
            "ask its author for the network's state_dict() alone"
        ) from error
    except Exception as error:  # a damaged file can raise anything
        raise CheckpointError(
            f"{path} is truncated or damaged, or is no PyTorch checkpoint: {_AGAIN}, or name one"
        ) from error


def _float32(path: Path, name: object, value: object) -> Tensor:
    """A checkpoint's value, which has to be an ordinary tensor of finite floats, as float32."""
    if not isinstance(name, str) or not isinstance(value, Tensor):
        raise CheckpointError(
            f"{path} holds {name!r}, which names no tensor: save the network's state_dict() alone"
        )
    ordinary = value.layout is torch.strided and value.device.type == "cpu" and not value.is_nested
    if not ordinary or not value.is_floating_point():
        raise CheckpointError(
            f"{path} holds {name!r} as {value.dtype}: convert it to float32 weights"
        )
    if value.nbytes > value.untyped_storage().nbytes():  # a few numbers can stand for terabytes
        raise CheckpointError(f"{path} repeats the numbers of {name!r}: save contiguous tensors")
    value = value.detach().float().contiguous()
    if not value.sum().isfinite():  # a single pass; an infinity or NaN never sums to a number
        raise CheckpointError(f"{path} holds NaN or infinity in {name!r}: {_AGAIN}")
    return value


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def _check_fit(
    found: dict[str, tuple[int, ...]],
    expected: dict[str, tuple[int, ...]],
    model: str,
    source: object,
) -> None:
    """Raise ``CheckpointError`` if shapes by name are not those of the model.

    Arguments:
        found, expected: shapes of the checkpoint's and the model's weights, by name.
        model: name of the model.
        source: what the message calls the checkpoint.
    """
    if found == expected:
        return
    likely = identify(found)
    if likely not in (None, model):
        raise CheckpointError(
            f"{source} is a {likely} checkpoint, not {model}: pass model {likely!r}"
        )
    if not found.keys() & expected.keys():
        raise CheckpointError(
            f"{source} is no SAM checkpoint: it holds weights such as {next(iter(found))!r}"
        )
    faults = []
    if missing := [name for name in expected if name not in found]:
        faults.append(f"lacks {len(missing)} weights of {model} such as {missing[0]!r}")
    if unknown := [name for name in found if name not in expected]:
        faults.append(f"holds {len(unknown)} weights unknown to {model} such as {unknown[0]!r}")
    both = (name for name in expected if name in found)
    if other := [name for name in both if found[name] != expected[name]]:
        faults.append(
            f"holds {len(other)} weights of another shape than {model} such as {other[0]!r}, "
            f"{_by(found[other[0]])} instead of {_by(expected[other[0]])}"
        )
    raise CheckpointError(f"{source} {'; it '.join(faults)}: pass a checkpoint made for {model}")


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"
