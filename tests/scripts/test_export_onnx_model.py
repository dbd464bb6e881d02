"""scripts/export_onnx_model.py on a small network."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from expedit_sam.export.graphs import open_graph
from expedit_sam.model.architectures import ARCHITECTURES
from tests.conftest import TINY
from tests.export.test_write import decoder_inputs

SCRIPT = Path(__file__).parents[2] / "scripts" / "export_onnx_model.py"
NAMES = ["masks", "iou_predictions", "low_res_masks"]


def export(monkeypatch: pytest.MonkeyPatch, folder: Path, options: str) -> int:
    """Exit code of the script, run in this process and folder."""
    monkeypatch.setitem(ARCHITECTURES, "vit_b", TINY)
    monkeypatch.chdir(folder)
    command = "--checkpoint random --model-type vit_b --output decoder.onnx"
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *command.split(), *options.split()])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return int(left.value.code or 0)


def test_writes_the_decoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    options = "--return-single-mask --gelu-approximate --opset 16 --quantize-out small.onnx"
    assert export(monkeypatch, tmp_path, options) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["decoder.onnx", "small.onnx"]
    inputs = decoder_inputs(3, (90, 120))
    whole, small = (
        open_graph(tmp_path / name, "onnx").run(inputs, NAMES)
        for name in ("decoder.onnx", "small.onnx")
    )
    assert whole[0].shape == (1, 1, 90, 120)
    assert 0 < np.abs(whole[2] - small[2]).max() < 0.5 * np.abs(whole[2]).max()


def test_faults_are_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(monkeypatch, tmp_path, "--opset 8") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("export_onnx_model.py: opset 8 cannot be written")
    assert list(tmp_path.iterdir()) == []
