from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch

from expedit_sam import products
from expedit_sam.cli import network
from expedit_sam.errors import InputError
from expedit_sam.hourglass import PRESETS
from expedit_sam.model.architectures import ARCHITECTURES


def test_options_offer_all_there_is() -> None:
    assert get_args(get_args(network.ModelOption)[0]) == tuple(ARCHITECTURES)
    help_text = get_args(network.SpeedOption)[1].help
    assert all(preset in help_text for preset in PRESETS)


@pytest.mark.usefixtures("tiny_vit_s")
def test_network_as_chosen() -> None:
    sam = network.load_network("vit_s", "random", "balanced", "cpu")
    assert sam.image_encoder.hourglass == PRESETS["balanced"]
    assert sam.device == torch.device("cpu")


@pytest.mark.usefixtures("tiny_vit_s")
@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_takes_the_best_device(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, expected: str
) -> None:
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(
        "expedit_sam.build.build_sam", lambda model, **options: chosen.append(options["device"])
    )
    network.load_network("vit_s", "random", "exact", "auto")
    network.load_network("vit_s", "random", "exact", "auto", "int8")
    assert chosen == [expected, "cpu"]


@pytest.mark.usefixtures("tiny_vit_s")
@pytest.mark.parametrize(
    ("machine", "amx", "precision", "expected"),
    [
        ("x86_64", False, "bfloat16", "bfloat16 is slower than float32 on this CPU"),
        ("x86_64", True, "bfloat16", ""),
        ("x86_64", False, "float32", ""),
        ("arm64", False, "bfloat16", ""),
    ],
)
def test_a_cpu_slow_at_bfloat16_is_told_of(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    machine: str,
    amx: bool,
    precision: str,
    expected: str,
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(products, "has_bfloat16_products", lambda: amx)
    network.load_network("vit_s", "random", "exact", "cpu", precision)
    shown = capsys.readouterr()
    assert shown.err.startswith(expected) if expected else not shown.err
    assert not shown.out


CHOSEN = {
    "--speed": ("fast", "hourglass", PRESETS["fast"]),
    "--precision": ("bfloat16", "precision", "bfloat16"),
    "--device": ("mps", "device", "mps"),
    "--compile": (None, "compiled", True),
}


@pytest.mark.usefixtures("photo_file")
@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("masks photo.png", ["--speed", "--precision", "--device", "--compile"]),
        ("predict photo.png --point 1,1", ["--speed", "--precision", "--device"]),
        ("batch . --workers 0", ["--speed", "--precision", "--device"]),
        ("bench photo.png", ["--precision", "--device", "--compile"]),
        ("tune --images .", ["--device"]),
        ("export", ["--speed"]),
        ("serve --port 0", ["--speed", "--precision", "--device"]),
    ],
)
def test_every_command_loads_the_network_it_is_told(
    run: Callable, monkeypatch: pytest.MonkeyPatch, command: str, options: list[str]
) -> None:
    given: dict[str, Any] = {}

    def build_sam(model: str, **arguments: Any) -> None:
        given.update(arguments, model=model)
        raise InputError("enough")

    monkeypatch.setattr("expedit_sam.build.build_sam", build_sam)
    asked = [text for option in options for text in (option, CHOSEN[option][0]) if text]
    result = run(*command.split(), "--model", "vit_b", "--checkpoint", "my.pth", *asked)
    assert result.stderr == "error: enough\n"
    expected = {name: value for _, name, value in (CHOSEN[option] for option in options)}
    assert given.items() >= ({"model": "vit_b", "checkpoint": "my.pth"} | expected).items()
