from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from expedit_sam.evaluate.costs import EncoderCost
from expedit_sam.evaluate.report import pareto_front, summarize, tables, write_report

COSTS = {
    "exact": EncoderCost(67_000_000_000, [400] * 4),
    "fast": EncoderCost(30_000_000_000, [400, 100, 100, 100]),
}


def figures(quality: float, seconds: float, **more: list[float]) -> dict:
    prompted = {"iou": [quality, quality + 0.1], "encoder_seconds": [seconds], **more}
    return {
        "click": {**prompted, "seconds": [seconds + 0.1]},
        "everything": {"recall_50": [1.0, 0.0], "masks": [9.0], "seconds": [9.0]},
    }


RESULTS = {
    "exact": [figures(0.6, 2.0), figures(0.8, 2.0)],
    "fast": [figures(0.5, 1.0, change=[-0.1, -0.1]), figures(0.8, 1.0, change=[0.0, 0.0])],
    "slic": [{"click": {"iou": [0.2, 0.3], "seconds": [0.5]}}] * 2,
}


def test_means() -> None:
    summary = summarize(RESULTS, seed=0)
    assert summary["exact"]["click"]["iou"].value == pytest.approx(0.75)
    change = summary["fast"]["click"]["change"]
    assert change.value == pytest.approx(-0.05)
    assert (change.low, change.high) == pytest.approx((-0.1, 0.0))
    assert set(summary["slic"]) == {"click"}


def test_tables() -> None:
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in tables(summarize(RESULTS, seed=0), COSTS).splitlines()
    ]
    assert ["fast", "1.000", "2.00", "30.0", "1 x 400, 3 x 100"] in lines
    assert ["method", "mIoU", "mIoU - exact", "seconds"] in lines
    assert ["fast", "0.700 [0.550, 0.850]", "-0.050 [-0.100, +0.000]", "1.1"] in lines
    assert ["slic", "0.250 [0.250, 0.250]", "-", "0.5"] in lines
    assert ["exact", "0.500 [0.500, 0.500]", "9", "9"] in lines


def test_files(tmp_path: Path) -> None:
    summary = summarize(RESULTS, seed=0)
    written = write_report(tmp_path / "out", summary, COSTS, {"seed": 0})
    assert sorted(path.name for path in written) == ["report.json", "report.md", "report.png"]
    assert sorted((tmp_path / "out").iterdir()) == sorted(written)
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    assert document["about"] == {"seed": 0}
    assert document["encoder"]["fast"]["tokens"] == [400, 100, 100, 100]
    assert document["results"]["exact"]["click"]["iou"]["value"] == pytest.approx(0.75)
    picture = np.asarray(Image.open(tmp_path / "out" / "report.png").convert("RGB"))
    assert (picture < 250).any()


def test_a_prompt_that_one_method_takes_has_a_panel_of_its_own(tmp_path: Path) -> None:
    results = {"exact": [{"click": {"iou": [0.2, 0.3], "seconds": [0.5]}}]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of axes without an extent
        write_report(tmp_path, summarize(results, seed=0), {"exact": COSTS["exact"]}, {})
    picture = np.asarray(Image.open(tmp_path / "report.png").convert("RGB"))
    assert (picture[60:-100, 100:-60] < 200).any()  # the point


def test_pareto_front() -> None:
    points = {"a": (1.0, 0.5), "b": (2.0, 0.4), "c": (3.0, 0.7), "d": (3.0, 0.8), "e": (4.0, 0.8)}
    assert pareto_front(points) == ["a", "d"]
