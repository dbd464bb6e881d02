"""How much memory reading a full checkpoint takes, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from expedit_sam.model.architectures import ARCHITECTURES, new_sam
from expedit_sam.weights.read import read_sam

# Prints the peak memory before and after, and the size of the network's weights, all in bytes.
MEASURE = """
import pathlib, re, sys
from expedit_sam.weights.read import read_sam
def peak():
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])
before = peak()
sam = read_sam(sys.argv[1], sys.argv[2])
assert (sam.image_encoder.neck[0].weight == 0.5).all()
print(before, peak(), sum(weight.nbytes for weight in sam.state_dict().values()))
"""


def full_weights(model: str, dtype: torch.dtype) -> dict[str, Tensor]:
    with torch.device("meta"):
        shapes = new_sam(ARCHITECTURES[model]).state_dict()
    return {name: torch.full(weight.shape, 0.5, dtype=dtype) for name, weight in shapes.items()}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures by /proc")
@pytest.mark.parametrize(
    ("model", "dtype", "save"),
    [
        ("vit_l", torch.float32, torch.save),
        ("vit_b", torch.float32, save_file),
        ("vit_b", torch.float16, save_file),
    ],
)
def test_peak_is_little_more_than_the_weights(tmp_path: Path, model, dtype, save) -> None:
    path = tmp_path / "sam.bin"
    save(full_weights(model, dtype), path)
    try:
        result = subprocess.run(
            [sys.executable, "-c", MEASURE, str(path), model], capture_output=True, text=True
        )
    finally:
        path.unlink()
    assert result.returncode == 0, result.stderr
    before, after, size = map(int, result.stdout.split())
    print(f"{model} {dtype} {save.__name__}: {before=:,} {after=:,} {size=:,}")
    assert after - before <= 1.2 * size


@pytest.mark.slow
def test_full_vit_b_holds_its_checkpoint(tmp_path: Path) -> None:
    weights = new_sam(ARCHITECTURES["vit_b"]).state_dict()
    torch.save(weights, tmp_path / "sam.pth")
    assert abs((tmp_path / "sam.pth").stat().st_size - 375_042_383) < 200_000  # the official one
    read = read_sam(tmp_path / "sam.pth", "vit_b").state_dict()
    (tmp_path / "sam.pth").unlink()
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], weight) for name, weight in weights.items())
