from __future__ import annotations

import errno
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from expedit_sam.demo import pictures
from expedit_sam.demo.clicks import Clicks
from expedit_sam.demo.downloads import write_cutout, write_everything
from expedit_sam.demo.masks import candidates
from expedit_sam.demo.networks import Networks
from expedit_sam.demo.pictures import Picture, read_picture
from expedit_sam.draw import binary_mask
from expedit_sam.errors import InputError


@pytest.fixture
def large(tmp_path: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Picture:
    """The photo of 221x150, shown at 110x75."""
    monkeypatch.setattr(pictures, "PAGE_SIDE", 110)
    Image.fromarray(photo).save(tmp_path / "large.png")
    return read_picture(tmp_path / "large.png")


def test_everything_in_full_size(
    tiny_networks: Networks, large: Picture, photo: np.ndarray, tmp_path: Path
) -> None:
    assert large.image.shape == (75, 110, 3)
    found = tiny_networks.segment("vit_s", "exact", 2, large.image, lambda *_: None)
    document, masks, overlay = write_everything(large, found.records, tmp_path, lambda _: None)
    assert Path(document).name == "large.json"
    written = json.loads(Path(document).read_text())
    assert written["images"][0]["file_name"] == "large.png"
    assert len(written["annotations"]) == len(found.records)
    for annotation, record in zip(written["annotations"], found.records, strict=True):
        mask = binary_mask(annotation)
        assert mask.shape == photo.shape[:2]
        assert annotation["area"] == mask.sum()
        assert abs(mask.mean() - binary_mask(record).mean()) < 0.05
    assert Image.open(overlay).size == (221, 150)
    assert len(zipfile.ZipFile(masks).namelist()) == len(found.records)


def test_a_cutout(
    tiny_networks: Networks, large: Picture, photo: np.ndarray, tmp_path: Path
) -> None:
    encoding = tiny_networks.encode("vit_s", "exact", large.image)
    clicks = Clicks()
    clicks.add(40, 30, "include", large.image.shape)
    guesses = candidates(encoding, clicks)
    written = write_cutout(large, encoding, guesses.logits[0], tmp_path)
    cutout, mask = (np.array(Image.open(path)) for path in written)
    assert mask.shape == photo.shape[:2]
    rows, columns = np.nonzero(mask)
    window = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    np.testing.assert_array_equal(cutout[..., :3], photo[window])
    np.testing.assert_array_equal(cutout[..., 3] > 0, mask[window])


def test_an_empty_cutout_is_transparent(
    tiny_networks: Networks, large: Picture, tmp_path: Path
) -> None:
    encoding = tiny_networks.encode("vit_s", "exact", large.image)
    logits = np.full((80, 80), -1, np.float32)
    cutout, _ = write_cutout(large, encoding, logits, tmp_path)
    assert np.array(Image.open(cutout))[..., 3].max() == 0


def test_a_full_disk_leaves_nothing_behind(
    tiny_networks: Networks, large: Picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    encoding = tiny_networks.encode("vit_s", "exact", large.image)
    logits = np.ones((80, 80), np.float32)
    folder = tmp_path / "files"
    monkeypatch.setattr(Image.Image, "save", full)
    monkeypatch.setattr(shutil, "make_archive", full)
    for write in (
        lambda: write_everything(large, [], folder, lambda _: None),
        lambda: write_cutout(large, encoding, logits, folder),
    ):
        with pytest.raises(InputError, match="No space left"):
            write()
        assert list(folder.iterdir()) == []
