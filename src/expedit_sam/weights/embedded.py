"""The checkpoint that comes with the package: vit_s, with most weights as 8-bit integers."""

from __future__ import annotations

import os
from importlib import resources

import torch
from safetensors.torch import load_file
from torch import Tensor

from expedit_sam.errors import CheckpointError

EMBEDDED_MODEL = "vit_s"
_SCALE = ".scale"


def read_embedded() -> dict[str, Tensor]:
    """The float32 weights of the packaged vit_s.

    Raises:
        CheckpointError: the package was installed without them.
    """
    packaged = resources.files("expedit_sam.weights") / "data" / f"{EMBEDDED_MODEL}.safetensors"
    with resources.as_file(packaged) as path:
        if not path.is_file():
            raise CheckpointError(f"{path} is missing: install expedit-sam again")
        return read_quantized(path)


def read_quantized(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Float32 weights of a safetensors file in which int8 weights have scales beside them.

    Weight ``name`` is the int8 tensor of that name times ``name.scale``, which broadcasts to it
    (one scale an output channel); a tensor without a scale is taken as it is.
    """
    stored = load_file(path)
    scales = {name + _SCALE for name in stored} & stored.keys()
    return {
        name: _dequantize(tensor, stored.get(name + _SCALE))
        for name, tensor in stored.items()
        if name not in scales
    }


def _dequantize(tensor: Tensor, scale: Tensor | None) -> Tensor:
    weight = tensor.to(torch.float32, copy=True)  # a copy, because the file is mapped
    return weight if scale is None else weight.mul_(scale)
