from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("tiny_vit_s")

ALL = ["--pred-iou-thresh", "-100", "--stability-score-thresh", "0", "--points-per-side", "2"]


def test_export_and_masks_of_it(run: Callable, photo_file: Path, only_error: Callable) -> None:
    pytest.importorskip("onnxruntime")
    result = run("export", "--checkpoint", "random", "--speed", "fast", "--out", "there")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split(" (")[0] for line in lines[:3]] == [
        f"written: {Path('there', name)}"
        for name in ("decoder.onnx", "encoder.onnx", "metadata.json")
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


def test_options_reach_the_export(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def export_sam(sam: object, folder: Path, **options: Any) -> list[Path]:
        given.update(options, folder=folder)
        return []

    monkeypatch.setattr("expedit_sam.export.write.export_sam", export_sam)
    asked = ("--format", "openvino", "--precision", "float16", "--opset", 15, "--out", "there")
    flags = ("return_single_mask", "use_stability_score", "return_extra_metrics")
    switches = [f"--{flag.replace('_', '-')}" for flag in flags]
    assert run("export", "--checkpoint", "random", *asked, *switches).exit_code == 0
    assert given == {
        "model": "vit_s",
        "folder": Path("there"),
        "format": "openvino",
        "precision": "float16",
        "opset": 15,
        **dict.fromkeys(flags, True),
    }


def test_masks_are_compared_on_the_images_given(
    run: Callable, photo_file: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[np.ndarray] = []

    def agreement(ours: object, theirs: object, images: list[np.ndarray]) -> float:
        compared.extend(images)
        return 0.5

    monkeypatch.setattr("expedit_sam.export.write.export_sam", lambda *_, **__: [])
    monkeypatch.setattr("expedit_sam.export.runtime.SamPredictor", lambda folder: None)
    monkeypatch.setattr("expedit_sam.evaluate.agreement.agreement", agreement)
    shutil.copy(photo_file, "another.png")
    result = run("export", "--checkpoint", "random", "--images", photo_file.parent)
    assert result.stdout == "mean IoU with PyTorch's masks in float32: 0.5000, on 2 images\n"
    np.testing.assert_array_equal(compared, [photo, photo])


def test_faults_are_one_line(run: Callable, photo_file: Path, only_error: Callable) -> None:
    result = run("masks", photo_file, "--backend", "onnx")
    assert "'expedit-sam export --format onnx --out FOLDER' writes one" in only_error(result)
    result = run("masks", photo_file, "--exported", "nowhere")
    assert f"{Path('nowhere/metadata.json')} does not exist" in only_error(result)
    result = run("export", "--opset", 5, "--checkpoint", "random", "--out", "there")
    assert "opset 5 cannot be written" in only_error(result)
    assert list(Path("there").iterdir()) == []
    result = run("export", "--format", "openvino", "--precision", "int8", "--checkpoint", "random")
    assert "choose --format onnx" in only_error(result)
