from __future__ import annotations

import pytest
from typer.testing import CliRunner

from expedit_sam.cli.commands import app


@pytest.mark.usefixtures("tiny_vit_s")
def test_a_row_for_every_setting() -> None:
    result = CliRunner().invoke(
        app, ["bench", "--checkpoint", "random", "--repeats", "1", "--device", "cpu"]
    )
    assert result.exit_code == 0, result.output
    for name in ("exact", "quality", "balanced", "fast"):
        assert name in result.output
    assert "vit_s on cpu, 1800x1200 pixels" in result.output


@pytest.mark.usefixtures("tiny_vit_s")
def test_the_fastest_backend_is_named() -> None:
    for package in ("onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    options = ["--checkpoint", "random", "--repeats", "1", "--device", "cpu"]
    result = CliRunner().invoke(app, ["bench", *options, "--backends"])
    assert result.exit_code == 0, result.output
    for speed in ("exact", "balanced"):
        for format in ("onnx", "openvino"):
            assert f"{speed} by {format}" in result.output
        assert f"fastest here at {speed}: encode with " in result.output


@pytest.mark.usefixtures("tiny_vit_s")
def test_precision() -> None:
    options = ["--checkpoint", "random", "--repeats", "1", "--device", "cpu"]
    result = CliRunner().invoke(app, ["bench", *options, "--precision", "bfloat16"])
    assert result.exit_code == 0, result.output
    assert "bfloat16, " in result.output
    result = CliRunner().invoke(app, ["bench", "--backends", "--precision", "bfloat16"])
    assert result.exit_code == 2
    line = "error: --backends compares float32: leave out --precision and --compile\n"
    assert result.stderr == line


def test_an_image_that_is_none_is_one_line() -> None:
    result = CliRunner().invoke(app, ["bench", "nowhere.jpg"])
    assert result.exit_code == 2
    assert "nowhere.jpg" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
