"""scripts/benchmark.py on a small network."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

from expedit_sam.model.architectures import ARCHITECTURES, new_sam
from tests.conftest import TINY

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark.py"
QUICK = "--points-per-side 2 --images 1 --warmup 1"


def benchmark(monkeypatch: pytest.MonkeyPatch, options: str) -> int:
    """Exit code of the script, run in this process."""
    monkeypatch.setitem(ARCHITECTURES, "vit_h", TINY)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options.split(), *QUICK.split()])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return int(left.value.code or 0)


@pytest.mark.parametrize(
    ("options", "speeds"),
    [
        ("", ["exact"]),
        ("--use_hourglass", ["exact", "hourglass"]),
        (
            "--input photos --output out --use_hourglass --hourglass_clustering_location 2",
            ["exact", "hourglass"],
        ),
    ],
)
def test_prints_a_line_a_speed(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: str,
    speeds: list[str],
) -> None:
    assert benchmark(monkeypatch, options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Loading model..."
    number = r"(\d+\.\d+)"
    for line, speed in zip(lines[1:-2], speeds, strict=True):
        pattern = rf"{speed}: +encoder {number} s .*; everything {number} s an image, {number} .*"
        encoder, everything, _ = map(float, re.fullmatch(pattern, line).groups())
        assert encoder > 0
        assert everything > 0
    assert re.fullmatch(rf"Average time per image: {number} seconds", lines[-1])


def test_checkpoint_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "model.pth"
    torch.save(new_sam(TINY).state_dict(), path)
    assert benchmark(monkeypatch, f"--checkpoint {path}") == 0
    path.write_bytes(b"no checkpoint")
    assert benchmark(monkeypatch, f"--checkpoint {path}") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("options", ["--images 0", "--warmup some"])
def test_counts_are_checked(monkeypatch: pytest.MonkeyPatch, options: str) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options.split()])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert left.value.code == 2
