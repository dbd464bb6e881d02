from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from expedit_sam.errors import InputError

UNTRAINED = ("--checkpoint", "random", "--device", "cpu")

pytestmark = pytest.mark.usefixtures("tiny_vit_s")


@pytest.fixture
def photos(tmp_path: Path, photo: np.ndarray) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(photo).save(folder / "a.jpg")
    return folder


def test_prints_a_setting_that_masks_takes(
    run: Callable, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A clock by which each setting is faster than the one before, on a busy machine too.
    ticks = (math.sqrt(tick) for tick in itertools.count())
    clock = SimpleNamespace(perf_counter=lambda: next(ticks))
    monkeypatch.setattr("expedit_sam.evaluate.tune.time", clock)
    result = run("tune", "--images", photos, "--keep", "0", *UNTRAINED)
    assert result.exit_code == 0, result.stderr
    assert Path("tune.png").stat().st_size > 0
    found = re.search(r"--speed (location=\d+,clusters=\d+)", result.stdout)
    assert found
    again = run("masks", photos, "--speed", found[1], "--points-per-side", "2", *UNTRAINED)
    assert again.exit_code == 0, again.stderr


def test_images_are_drawn_by_limit_and_seed(
    run: Callable, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(9):
        (photos / f"{number}.jpg").touch()
    given: list[tuple] = []

    def search(sam: object, files: list[Path], keep: float, **_: Any) -> None:
        given.append((keep, [file.name for file in files]))
        raise InputError("enough")

    monkeypatch.setattr("expedit_sam.evaluate.tune.tune", search)
    for seed in (1, 1, 2):
        asked = ("--limit", 3, "--seed", seed, "--keep", 0.5)
        run("tune", "--images", photos, *asked, *UNTRAINED)
    first, same, other = given
    assert first == same != other
    keep, names = first
    assert keep == 0.5
    assert len(names) == 3
    assert names == sorted(names)


@pytest.mark.usefixtures("photos")
def test_faults(run: Callable, only_error: Callable) -> None:
    missing = only_error(run("tune", "--images", "missing", *UNTRAINED))
    assert "missing does not exist" in missing
    Path("broken.png").write_bytes(b"no picture")
    broken = only_error(run("tune", "--images", "broken.png", *UNTRAINED))
    assert "broken.png" in broken
    assert not Path("tune.png").exists()
    plotted = only_error(run("tune", "--images", "photo.jpg", "--plot", "photo.jpg", *UNTRAINED))
    assert "photo.jpg is no .png" in plotted
