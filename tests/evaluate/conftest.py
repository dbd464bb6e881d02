from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

LABELS = np.zeros((150, 221), np.uint8)
LABELS[40:90, 60:120] = 1
LABELS[100:140, 150:200] = 2
LABELS[0:2, 0:4] = 3  # too small to count


@pytest.fixture
def labelled(tmp_path: Path, photo: np.ndarray) -> Path:
    """A folder of two photos with label maps of two regions each."""
    folder = tmp_path / "labelled"
    folder.mkdir()
    for name, picture, labels in (
        ("one", photo, LABELS),
        ("two", photo[:, ::-1], LABELS[:, ::-1]),
    ):
        Image.fromarray(picture).save(folder / f"{name}.jpg", quality=95)
        Image.fromarray(labels).save(folder / f"{name}.png")
    return folder
