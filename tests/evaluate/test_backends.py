from __future__ import annotations

import json
from pathlib import Path

import pytest

from expedit_sam.errors import InputError
from expedit_sam.evaluate import backends
from expedit_sam.evaluate.backends import contestant, export_speeds, fastest, installed_formats
from expedit_sam.evaluate.speed import Speed
from expedit_sam.export import write
from expedit_sam.export.write import export_sam
from expedit_sam.hourglass.settings import PRESETS, Hourglass
from expedit_sam.model.sam import Sam


def test_the_fastest_backend_of_each_preset_is_named() -> None:
    speeds = {
        "exact": Speed(2.0, 0.3, None, None),
        "fast": Speed(0.5, 0.3, None, None),
        "balanced": Speed(1.0, 0.3, None, None),
        "exact by onnx": Speed(3.0, 0.6, None, None),
        "exact by openvino in a folder": Speed(1.0, 0.2, None, None),
        "balanced by onnx": Speed(1.1, 0.4, None, None),
        "own setting by onnx": Speed(0.1, 0.1, None, None),
    }
    assert fastest(speeds) == [
        "fastest here at exact: encode with openvino in a folder (2.00 times torch's speed), "
        "decode with openvino in a folder (1.50 times torch's speed)",
        "fastest here at balanced: encode with torch, decode with torch",
    ]
    assert fastest({"exact": speeds["exact"]}) == []


def test_exports_are_called_by_their_preset(
    tiny_sam: Sam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx")
    # The metadata says it all; graphs take seconds each.
    monkeypatch.setattr(write, "write_onnx", lambda graph, path, opset: None)
    monkeypatch.setattr(write, "_save_onnx", lambda source, target, digest: target.touch())
    tiny_sam.image_encoder.hourglass = PRESETS["fast"]
    steps: list[None] = []
    folders = export_speeds(tiny_sam, "vit_s", tmp_path, ["onnx"], lambda: steps.append(None))
    assert [contestant(folder) for folder in folders] == ["exact by onnx", "balanced by onnx"]
    assert len(steps) == 2
    assert tiny_sam.image_encoder.hourglass == PRESETS["fast"]  # as it came
    tiny_sam.image_encoder.hourglass = Hourglass(location=1)
    export_sam(tiny_sam, tmp_path / "half", model="vit_s", precision="float16")
    name = contestant(tmp_path / "half", " in half")
    assert name == "own setting by onnx float16 in half"
    about = json.loads((tmp_path / "half" / "metadata.json").read_text())
    about["hourglass"]["of a later version"] = 1
    (tmp_path / "half" / "metadata.json").write_text(json.dumps(about))
    assert contestant(tmp_path / "half") == "own setting by onnx float16"


def test_without_any_other_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"no backend to compare: pip install 'expedit-sam\[open"):
        installed_formats()
