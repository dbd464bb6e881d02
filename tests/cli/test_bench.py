from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from expedit_sam.errors import InputError
from expedit_sam.everything.recommended import RECOMMENDED

UNTRAINED = ("--checkpoint", "random", "--repeats", 1, "--device", "cpu")

pytestmark = pytest.mark.usefixtures("tiny_vit_s")


def test_a_row_for_every_setting(run: Callable) -> None:
    result = run("bench", *UNTRAINED)
    assert result.exit_code == 0, result.output
    for name in ("exact", "quality", "balanced", "fast"):
        assert name in result.output
    assert "vit_s on cpu, 1800x1200 pixels" in result.output


def test_the_fastest_backend_is_named(
    run: Callable, photo_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    monkeypatch.setattr("expedit_sam.evaluate.backends.SPEEDS", ("exact",))  # a quick export
    result = run("bench", photo_file, *UNTRAINED, "--backends")
    assert result.exit_code == 0, result.output
    for format in ("onnx", "openvino"):
        assert f"exact by {format}" in result.output
    assert "fastest here at exact: encode with " in result.output


def test_precision(run: Callable, photo_file: Path, only_error: Callable) -> None:
    result = run("bench", photo_file, *UNTRAINED, "--precision", "bfloat16")
    assert result.exit_code == 0, result.output
    assert "221x150 pixels, bfloat16, " in result.output
    line = only_error(run("bench", "--backends", "--precision", "bfloat16"))
    assert line == "error: --backends compares float32: leave out --precision and --compile"


@pytest.mark.parametrize(
    ("options", "everything"), [([], None), (["--everything"], RECOMMENDED["vit_s"])]
)
def test_what_is_timed_is_what_was_asked_for(
    run: Callable,
    photo_file: Path,
    photo: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    everything: dict | None,
) -> None:
    given: dict[str, Any] = {}

    def measure_speed(sam: object, settings: object, image: np.ndarray, **more: Any) -> None:
        given.update(more, image=image)
        raise InputError("enough")

    monkeypatch.setattr("expedit_sam.evaluate.speed.measure_speed", measure_speed)
    run("bench", photo_file, *UNTRAINED, "--repeats", 7, *options)
    np.testing.assert_array_equal(given["image"], photo)
    assert (given["repeats"], given["everything"]) == (7, everything)


def test_an_image_that_is_none_is_one_line(run: Callable, only_error: Callable) -> None:
    assert "nowhere.jpg" in only_error(run("bench", "nowhere.jpg"))
