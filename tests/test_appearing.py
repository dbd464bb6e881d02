from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from expedit_sam.appearing import prepare_folder
from expedit_sam.errors import InputError


def test_folder_is_made(tmp_path: Path) -> None:
    prepare_folder(tmp_path / "a" / "b")
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "a", tmp_path / "a" / "b"]


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("n" * 300)):
        with pytest.raises(InputError, match=r"cannot write to .*: choose another folder"):
            prepare_folder(folder)


def test_what_killed_runs_left_goes_after_a_day(tmp_path: Path) -> None:
    for name, hours in ((".expedit-sam-old", 25), (".expedit-sam-new", 23), ("mine", 25)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half.png").touch()
        os.utime(tmp_path / name, (time.time() - hours * 3600,) * 2)
    prepare_folder(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".expedit-sam-new", "mine"]
