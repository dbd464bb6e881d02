from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from expedit_sam import products
from expedit_sam.cli.bench import _table
from expedit_sam.errors import InputError
from expedit_sam.evaluate.speed import Speed
from expedit_sam.everything.recommended import RECOMMENDED
from expedit_sam.model import int8

UNTRAINED = ("--checkpoint", "random", "--repeats", 1, "--device", "cpu")

pytestmark = pytest.mark.usefixtures("tiny_vit_s")


def test_a_row_for_every_setting(run: Callable) -> None:
    result = run("bench", *UNTRAINED)
    assert result.exit_code == 0, result.output
    for name in ("exact", "quality", "balanced", "fast"):
        assert name in result.output
    assert "vit_s on cpu, 1800x1200 pixels" in result.output


def test_the_bars_can_be_written_in_the_encoding_of_windows() -> None:
    speeds = {
        "exact": Speed(encoder=4.0, decoder=1.0, everything=None, memory=None),
        "fast": Speed(encoder=2.0, decoder=1.0, everything=None, memory=None),
    }
    file = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    Console(file=file, width=80).print(_table(speeds))
    file.seek(0)
    exact, fast = (line for line in file if line.startswith(("| exact", "| fast")))
    assert exact.count("-") == 2 * fast.count("-") == 16


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
    assert "peak memory" not in result.output  # it would be that of all runtimes


def test_precision(run: Callable, photo_file: Path, only_error: Callable) -> None:
    result = run("bench", photo_file, *UNTRAINED, "--precision", "bfloat16")
    assert result.exit_code == 0, result.output
    assert "221x150 pixels, bfloat16, " in result.output
    line = only_error(run("bench", "--backends", "--precision", "bfloat16"))
    assert line == "error: --backends compares float32: leave out --precision and --compile"


@pytest.mark.parametrize(
    ("amx", "vnni", "options", "told"),
    [
        (True, True, [], "bfloat16"),
        (False, True, [], "int8"),
        (False, False, [], None),
        (True, True, ["--precision", "bfloat16"], None),
    ],
)
def test_lower_precision_is_told_of_where_it_runs_and_was_not_asked_for(
    run: Callable,
    photo_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    amx: bool,
    vnni: bool,
    options: list[str],
    told: str | None,
) -> None:
    monkeypatch.setattr(products, "has_bfloat16_products", lambda: amx)
    monkeypatch.setattr(int8, "has_integer_products", lambda: vnni)
    monkeypatch.setattr("expedit_sam.hourglass.PRESETS", {"exact": None})
    result = run("bench", photo_file, *UNTRAINED, *options)
    assert result.exit_code == 0, result.output
    assert re.findall(r"--precision (\w+) times that", result.output) == ([told] if told else [])


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
