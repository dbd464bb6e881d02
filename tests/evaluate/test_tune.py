from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from expedit_sam.evaluate.tune import Point, fastest, most_settings, plot, tune
from expedit_sam.hourglass.settings import Hourglass
from expedit_sam.model.sam import Sam


@pytest.fixture
def files(tmp_path: Path, photo: np.ndarray) -> list[Path]:
    Image.fromarray(photo).save(tmp_path / "a.png")
    Image.fromarray(photo[:, ::-1]).save(tmp_path / "b.png")
    return [tmp_path / "a.png", tmp_path / "b.png"]


def test_all_points_are_below_the_exact_one(tiny_sam: Sam, files: list[Path]) -> None:
    sam = tiny_sam
    sam.image_encoder.hourglass = Hourglass(location=1)
    seen: list[None] = []
    points = tune(sam, files, 0.9, on_image=lambda: seen.append(None))
    assert points[0].setting is None
    assert points[0].kept == 1
    assert all(0 <= point.kept <= 1 and point.seconds > 0 for point in points)
    assert len(seen) == len(files) * len(points)
    assert len(points) <= most_settings(4)
    assert sam.image_encoder.hourglass == Hourglass(location=1)  # as it came


def test_a_low_demand_finds_the_first_block_and_an_impossible_one_the_exact_network(
    tiny_sam: Sam, files: list[Path]
) -> None:
    points = tune(tiny_sam, files[:1], 0.0)
    assert {p.setting.location for p in points if p.setting} >= {0}
    impossible = [p for p in points if p.setting is None or p.kept < 1]
    assert fastest(impossible, 1.0).setting is None


def test_the_fastest_that_keeps_enough() -> None:
    points = [
        Point(None, 1.0, 3.0),
        Point(Hourglass(location=6), 0.99, 2.0),
        Point(Hourglass(location=2), 0.9, 1.0),
    ]
    assert fastest(points, 0.98) is points[1]
    assert fastest(points, 0.995) is points[0]
    assert plot(points, 0.98).startswith(b"\x89PNG")
