from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from expedit_sam.batch import start as batch_start
from expedit_sam.batch.job import Job, locked
from expedit_sam.batch.start import Request, start
from expedit_sam.errors import InputError
from expedit_sam.model.sam import Sam
from tests.batch.conftest import TAKE_ALL
from tests.conftest import randomized


def begin(pictures: Path, sam: Sam, out: Path) -> dict[str, Any]:
    request = Request(
        source=str(pictures),
        images=None,
        limit=1,
        model="vit_s",
        speed="exact",
        everything=True,
        generator=TAKE_ALL,
        points_per_batch=64,
        images_per_shard=5,
        threads=1,
    )
    return start(request, sam, out, (1, 1), 0, "cpu", None, False, False, lambda *_: None)


def test_other_weights_are_another_job(tmp_path: Path, pictures: Path, few: Sam) -> None:
    summary = begin(pictures, few, tmp_path / "out")
    assert begin(pictures, few, tmp_path / "out")["masks"] == summary["masks"] > 0
    with pytest.raises(InputError, match=r"was begun with weights '.*, not '.*: choose"):
        begin(pictures, randomized(few, seed=1), tmp_path / "out")


def test_shares_that_end_at_once_count_one_after_the_other(
    tmp_path: Path, pictures: Path, few: Sam, monkeypatch: pytest.MonkeyPatch
) -> None:
    def counted(job: Job, *_: Any) -> dict[str, Any]:
        with pytest.raises(InputError, match="at work"), locked(job.folder, "summary"):
            pass
        return {"masks": 7}

    monkeypatch.setattr(batch_start, "write_summary", counted)
    assert begin(pictures, few, tmp_path / "out") == {"masks": 7}
