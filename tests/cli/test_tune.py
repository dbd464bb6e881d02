from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

UNTRAINED = ("--checkpoint", "random", "--device", "cpu")

pytestmark = pytest.mark.usefixtures("tiny_vit_s")


@pytest.fixture
def photos(tmp_path: Path, photo: np.ndarray) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(photo).save(folder / "a.jpg")
    return folder


def test_prints_a_setting_that_masks_takes(run: Callable, photos: Path) -> None:
    result = run("tune", "--images", photos, "--keep", "0", *UNTRAINED)
    assert result.exit_code == 0, result.stderr
    assert Path("tune.png").stat().st_size > 0
    found = re.search(r"--speed (location=\d+,clusters=\d+)", result.stdout)
    assert found
    again = run("masks", photos, "--speed", found[1], "--points-per-side", "2", *UNTRAINED)
    assert again.exit_code == 0, again.stderr


@pytest.mark.usefixtures("photos")
def test_faults(run: Callable, only_error: Callable) -> None:
    missing = only_error(run("tune", "--images", "missing", *UNTRAINED))
    assert "missing does not exist" in missing
    Path("broken.png").write_bytes(b"no picture")
    broken = only_error(run("tune", "--images", "broken.png", *UNTRAINED))
    assert "broken.png" in broken
    assert not Path("tune.png").exists()
