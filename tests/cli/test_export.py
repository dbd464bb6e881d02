from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("tiny_vit_s")

ALL = ["--pred-iou-thresh", "-100", "--stability-score-thresh", "0", "--points-per-side", "2"]


def test_export_and_masks_of_it(run: Callable, photo_file: Path, only_error: Callable) -> None:
    pytest.importorskip("onnxruntime")
    result = run("export", "--checkpoint", "random", "--speed", "fast", "--out", "there")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split(" (")[0] for line in lines[:3]] == [
        f"written: there/{name}" for name in ("decoder.onnx", "encoder.onnx", "metadata.json")
    ]
    assert lines[3] == (
        "mean IoU with PyTorch's masks in float32: 1.0000, on a drawing (--images takes photos)"
    )
    result = run("masks", photo_file, "--exported", "there", "--backend", "onnx", *ALL)
    assert result.exit_code == 0
    assert Path("out/photo.json").is_file()
    options = ("--checkpoint", "random", "--repeats", 1, "--device", "cpu")
    result = run("bench", photo_file, *options, "--exported", "there")
    assert "fast by onnx in there" in result.stdout
    assert "fastest here at fast: encode with " in result.stdout
    wrong = run("bench", photo_file, "--model", "vit_b", "--exported", "there")
    assert "there is a vit_s: pass --model vit_s" in only_error(wrong)
    wrong = run("masks", photo_file, "--exported", "there", "--backend", "openvino")
    assert "there is for --backend onnx, not openvino" in only_error(wrong)
    wrong = run("masks", photo_file, "--exported", "there", "--speed", "fast")
    assert "an export has its own network" in only_error(wrong)


def test_faults_are_one_line(run: Callable, photo_file: Path, only_error: Callable) -> None:
    result = run("masks", photo_file, "--backend", "onnx")
    assert "'expedit-sam export --format onnx --out FOLDER' writes one" in only_error(result)
    result = run("masks", photo_file, "--exported", "nowhere")
    assert "nowhere/metadata.json does not exist" in only_error(result)
    result = run("export", "--opset", 5, "--checkpoint", "random", "--out", "there")
    assert "opset 5 cannot be written" in only_error(result)
    assert list(Path("there").iterdir()) == []
    result = run("export", "--format", "openvino", "--precision", "int8", "--checkpoint", "random")
    assert "choose --format onnx" in only_error(result)
