from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from expedit_sam import extras
from expedit_sam.evaluate.contestants import Network
from expedit_sam.evaluate.datasets import draw_examples, find_examples
from expedit_sam.evaluate.run import evaluate
from expedit_sam.hourglass import PRESETS

UNTRAINED = ("--checkpoint", "random", "--device", "cpu")

pytestmark = pytest.mark.usefixtures("tiny_vit_s")


@pytest.fixture
def labelled(tmp_path: Path, photo: np.ndarray) -> Path:
    folder = tmp_path / "labelled"
    folder.mkdir()
    labels = np.zeros(photo.shape[:2], np.uint8)
    labels[40:90, 60:120] = 1
    Image.fromarray(photo).save(folder / "photo.jpg")
    Image.fromarray(labels).save(folder / "photo.png")
    return folder


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the evaluation is begun with."""
    given: dict[str, Any] = {}

    def spy(*arguments: Any, **more: Any) -> object:
        given.update(inspect.signature(evaluate).bind(*arguments, **more).arguments)
        return evaluate(*arguments, **more)

    monkeypatch.setattr("expedit_sam.evaluate.run.evaluate", spy)
    return given


def described(network: Network) -> tuple:
    """Its name, setting, precision and skip_covered."""
    weights = next(network.sam.image_encoder.parameters())
    return network.name, network.setting, weights.dtype, network._generator.skip_covered


def test_table_json_and_plot(run: Callable, labelled: Path) -> None:
    asked = ("--speed", "fast", "--speed", "published:location=2,clusters=49")
    asked += ("--prompts", "click,box", "--baselines", "slic")
    result = run("evaluate", labelled, *asked, *UNTRAINED)
    assert result.exit_code == 0
    assert result.stderr == ""
    assert "| published:location=2,clusters=49 |" in result.stdout
    assert f"written: {Path('evaluation/report.md')}" in result.stdout
    assert Path("evaluation/report.md").read_text() in result.stdout
    assert Path("evaluation/report.png").stat().st_size > 0
    report = json.loads(Path("evaluation/report.json").read_text())
    assert report["about"]["images"] == 1
    assert report["about"]["regions"] == 1
    assert list(report["results"]) == ["exact", "fast", "published:location=2,clusters=49", "slic"]
    assert len(list(Path("evaluation/records").iterdir())) == 4

    again = run("evaluate", labelled, *asked, *UNTRAINED)
    assert again.stdout == result.stdout  # times too: nothing was measured again


def test_precision_beside_float32(run: Callable, labelled: Path, measured: dict) -> None:
    asked = ("--speed", "fast", "--prompts", "click", "--precision", "bfloat16")
    assert run("evaluate", labelled, *asked, *UNTRAINED).exit_code == 0
    assert list(map(described, measured["networks"])) == [
        ("exact", None, torch.float32, 0),
        ("fast", PRESETS["fast"], torch.float32, 0),
        ("exact in bfloat16", None, torch.bfloat16, 0),
        ("fast in bfloat16", PRESETS["fast"], torch.bfloat16, 0),
    ]
    report = json.loads(Path("evaluation/report.json").read_text())
    assert list(report["results"]) == [network.name for network in measured["networks"]]


def test_skipped_points_beside_the_full_grid(run: Callable, labelled: Path, measured: dict) -> None:
    asked = ("--speed", "exact", "--prompts", "everything", "--skip-covered", "0.1")
    assert run("evaluate", labelled, *asked, *UNTRAINED).exit_code == 0
    assert list(map(described, measured["networks"])) == [
        ("exact", None, torch.float32, 0),
        ("exact, skip_covered 0.1", None, torch.float32, 0.1),
    ]
    report = json.loads(Path("evaluation/report.json").read_text())
    assert list(report["results"]) == ["exact", "exact, skip_covered 0.1"]


def test_images_and_regions_are_drawn_as_asked(
    run: Callable, tmp_path: Path, measured: dict
) -> None:
    numbers = range(9)
    images = [{"id": n, "file_name": f"{n}.jpg", "height": 9, "width": 9} for n in numbers]
    outlines = [{"image_id": n, "segmentation": [[0, 0, 5, 0, 5, 5]]} for n in numbers]
    document = {"images": images, "annotations": outlines}
    (tmp_path / "coco.json").write_text(json.dumps(document))
    drawn = ("--limit", 3, "--regions", 2, "--seed", 5, "--image-folder", "elsewhere")
    assert run("evaluate", "coco.json", *drawn, *UNTRAINED).exit_code == 2  # there is no image
    expected = draw_examples(find_examples(Path("coco.json"), Path("elsewhere")), 3, 5)
    assert [e.image_file for e in measured["examples"]] == [e.image_file for e in expected]
    assert (measured["regions"], measured["seed"]) == (2, 5)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("missing",), "missing is neither a folder nor a .json"),
        (("labelled", "--prompts", "lasso"), "no prompt is called 'lasso'"),
        (("labelled", "--speed", "quick"), "no speed setting is called 'quick'"),
        (("labelled", "--speed", "location=9"), "location 9 lies beyond the last block"),
        (("labelled", "--skip-covered", "0.1"), "add --prompts everything"),
        (("labelled", "--baselines", "magic"), "no baseline is called 'magic'"),
        (
            ("labelled", "--out", "labelled/photo.jpg"),
            f"cannot write to {Path('labelled/photo.jpg')}",
        ),
    ],
)
@pytest.mark.usefixtures("labelled")
def test_faults(run: Callable, only_error: Callable, arguments: tuple, reason: str) -> None:
    assert reason in only_error(run("evaluate", *arguments, *UNTRAINED))


def test_regions_that_are_too_small(run: Callable, labelled: Path, only_error: Callable) -> None:
    for file in labelled.glob("*.png"):
        Image.new("L", (221, 150)).save(file)
    assert "holds no region of 0.1 %" in only_error(run("evaluate", labelled, *UNTRAINED))


def test_a_missing_extra_says_how_to_install_it(
    run: Callable, labelled: Path, only_error: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: name != "skimage" or None)
    line = only_error(run("evaluate", labelled, *UNTRAINED))
    assert line == "error: evaluate needs skimage: pip install 'expedit-sam[evaluate]'"
