from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from expedit_sam.model.sam import Sam

# An untrained network finds nothing that it is sure of: take all that it finds.
TAKE_ALL: dict[str, Any] = {
    "points_per_side": 2,
    "pred_iou_thresh": -100,
    "stability_score_thresh": 0,
    "min_mask_region_area": 0,
}


def picture(number: int) -> np.ndarray:
    """A small picture that no other number has."""
    generator = np.random.default_rng(number)
    return generator.integers(0, 256, (40 + number % 5, 60, 3), dtype=np.uint8)


def write_pictures(folder: Path, number: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(number):
        Image.fromarray(picture(i)).save(folder / f"{i:03d}.png")
    return folder


def rows_of(out: Path) -> list[dict[str, Any]]:
    """All rows of a job's shards, in the order of files."""
    return [row for path in sorted(out.glob("shards/*")) for row in pq.read_table(path).to_pylist()]


def shards_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "shards").iterdir()}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Five pictures and a file that is none, the third."""
    folder = write_pictures(tmp_path / "pictures", 6)
    (folder / "002.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def few(tiny_sam: Sam, monkeypatch: pytest.MonkeyPatch) -> Sam:
    """A network, and blocks of two images."""
    monkeypatch.setattr("expedit_sam.batch.run.IMAGES_PER_BLOCK", 2)
    return tiny_sam
