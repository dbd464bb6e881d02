"""The packaged file: a ``vit_s`` with its encoder in int8, read and written."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from expedit_sam.model.architectures import ARCHITECTURES, new_sam
from expedit_sam.model.sam import Sam
from expedit_sam.weights.embedded import read_quantized

PACKAGED = Path(__file__).parents[1] / "src/expedit_sam/weights/data/vit_s.safetensors"
METADATA = {"format": "pt", "architecture": "vit_s", "version": "1"}


def pack(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Encoder weights as int8 with a float16 scale per output channel, the rest as float16.

    Position tables stay in floating point: they have no output channels, and their precision limits
    how exactly a click's position is known.
    """
    packed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith("image_encoder.") and name.endswith(".weight") and tensor.dim() > 1:
            packed[name], packed[f"{name}.scale"] = quantise(tensor.float())
        elif name.endswith("gaussian_matrix"):
            packed[name] = tensor.float()
        else:
            packed[name] = tensor.half()
    return {name: tensor.contiguous() for name, tensor in packed.items()}


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 values and (out, 1, ...) float16 scales whose product is closest to the weight."""
    dimensions = tuple(range(1, weight.dim()))
    scale = (weight.abs().amax(dimensions, keepdim=True) / 127).half()
    scale = scale.clamp_min(torch.finfo(torch.float16).tiny)
    return (weight / scale.float()).round().clamp(-127, 127).to(torch.int8), scale


def read_sam(path: Path) -> Sam:
    """The network of a packaged file, or of a training checkpoint."""
    sam = new_sam(ARCHITECTURES["vit_s"])
    sam.load_state_dict(read_weights(path))
    return sam


def load_start(sam: Sam, path: Path) -> None:
    """Take what a file of weights holds (see ``read_weights``); the rest stays as it was."""
    sam.load_state_dict(read_weights(path), strict=False)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights of a training checkpoint or a packaged file."""
    if path.suffix == ".safetensors":
        return read_quantized(path)
    return torch.load(path, map_location="cpu", weights_only=True)["model"]


def save_weights(state: dict[str, Tensor], path: Path) -> None:
    """Write what ``read_weights`` reads."""
    temporary = path.with_suffix(".part")
    torch.save({"model": state}, temporary)
    temporary.replace(path)


def write_packaged(sam: Sam, path: Path) -> None:
    """Write the packaged file of a network."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    save_file(pack(sam.cpu().state_dict()), temporary, metadata=METADATA)
    temporary.replace(path)
