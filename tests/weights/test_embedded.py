from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from expedit_sam.errors import CheckpointError
from expedit_sam.model.architectures import ARCHITECTURES, new_sam
from expedit_sam.weights import embedded
from expedit_sam.weights.embedded import read_embedded, read_quantized
from expedit_sam.weights.read import assemble


def quantized(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Matrices and kernels as int8 with a float16 scale an output channel, the rest as float16."""
    stored = {}
    for name, weight in weights.items():
        if weight.ndim < 2:
            stored[name] = weight.half()
            continue
        scale = weight.abs().amax(tuple(range(1, weight.ndim)), keepdim=True).div(127)
        scale = scale.clamp_min(1e-6).half()
        stored[name] = weight.div(scale.float()).round().clamp(-127, 127).to(torch.int8)
        stored[f"{name}.scale"] = scale
    return stored


def test_int8_times_scale(tmp_path: Path) -> None:
    stored = {
        "kernel": torch.tensor([[-127, 0], [5, 127]], dtype=torch.int8).view(2, 2, 1, 1),
        "kernel.scale": torch.tensor([0.5, 0.25], dtype=torch.float16).view(2, 1, 1, 1),
        "bias": torch.tensor([1.5], dtype=torch.float16),
        "exact": torch.tensor([0.1]),
        "learned.scale": torch.tensor([3.0]),  # a weight by that name, not the scale of another
    }
    save_file(stored, tmp_path / "q.safetensors")
    weights = read_quantized(tmp_path / "q.safetensors")
    assert weights.keys() == {"kernel", "bias", "exact", "learned.scale"}
    assert all(weight.dtype == torch.float32 for weight in weights.values())
    assert weights["kernel"].flatten().tolist() == [-63.5, 0, 1.25, 31.75]
    assert weights["kernel"].shape == (2, 2, 1, 1)
    assert weights["bias"].item() == 1.5
    assert weights["exact"] == torch.tensor([0.1])


def test_weights_outlive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "q.safetensors"
    save_file({"exact": torch.arange(1000.0)}, path)
    weights = read_quantized(path)
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(weights["exact"], torch.arange(1000.0))


@pytest.mark.usefixtures("small")
def test_quantized_network_fits_and_is_near(tmp_path: Path) -> None:
    original = new_sam(ARCHITECTURES["vit_s"])
    save_file(quantized(original.state_dict()), tmp_path / "q.safetensors")
    sam = assemble(read_quantized(tmp_path / "q.safetensors"), "vit_s", source="a test")
    for name, weight in original.state_dict().items():
        error = (sam.state_dict()[name] - weight).abs().max()
        assert error <= weight.abs().max() / 127, name


def test_package_without_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded.resources, "files", lambda package: tmp_path)
    with pytest.raises(CheckpointError, match="install expedit-sam again"):
        read_embedded()
