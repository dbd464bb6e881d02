from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expedit_sam.batch import loading
from expedit_sam.batch import start as batch_start
from expedit_sam.batch.job import Job, locked
from expedit_sam.batch.start import Request, start
from expedit_sam.errors import InputError
from expedit_sam.model.sam import Sam
from tests.batch.conftest import TAKE_ALL
from tests.conftest import randomized


def begin(
    source: Path, sam: Sam, out: Path, limit: int = 1, retry_failed: bool = False
) -> dict[str, Any]:
    request = Request(
        source=str(source),
        images=None,
        limit=limit,
        model="vit_s",
        speed="exact",
        everything=True,
        generator=TAKE_ALL,
        points_per_batch=64,
        images_per_shard=1,
        threads=1,
    )
    return start(request, sam, out, (1, 1), 0, "cpu", None, False, retry_failed, lambda *_: None)


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


def pack(pictures: Path, name: str) -> Path:
    """All pictures of a folder in one file."""
    packed = pictures.with_name(name)
    files = sorted(pictures.iterdir())
    if name.endswith(".tar"):
        with tarfile.open(packed, "w") as tar:
            for file in files:
                tar.add(file, file.name)
    else:
        pq.write_table(pa.table({"bytes": [file.read_bytes() for file in files]}), packed)
    return packed


@pytest.mark.parametrize("name", ["data.tar", "data.parquet"])
def test_a_file_of_images_that_was_changed_ends_the_job(
    tmp_path: Path, pictures: Path, few: Sam, name: str
) -> None:
    packed = pack(pictures, name)
    begin(packed, few, tmp_path / "out", limit=2)
    os.utime(packed, (1, 1))
    assert begin(packed, few, tmp_path / "out", limit=2)["pending"] == 0  # nothing is left to read
    (tmp_path / "out" / "shards" / "000001.parquet").unlink()
    with pytest.raises(InputError, match=rf"{name} was changed since the job began: put it back"):
        begin(packed, few, tmp_path / "out", limit=2)


def test_images_that_failed_are_tried_again_from_a_mended_file(
    tmp_path: Path, pictures: Path, few: Sam
) -> None:
    (pictures / "000.png").write_bytes(b"no picture")
    packed = pack(pictures, "data.parquet")
    assert begin(packed, few, tmp_path / "out")["failed"] == 1
    (pictures / "000.png").write_bytes((pictures / "001.png").read_bytes())
    pack(pictures, "data.parquet")
    loading._row_group.cache_clear()  # the next process has none
    assert begin(packed, few, tmp_path / "out", retry_failed=True)["failed"] == 0


def test_a_list_that_says_nothing_of_files_goes_on(
    tmp_path: Path, pictures: Path, few: Sam
) -> None:
    packed = pack(pictures, "data.tar")
    begin(packed, few, tmp_path / "out", limit=2)
    file = tmp_path / "out" / "items.parquet"
    pq.write_table(pq.read_table(file).replace_schema_metadata(), file)
    (tmp_path / "out" / "shards" / "000001.parquet").unlink()
    os.utime(packed, (1, 1))
    assert begin(packed, few, tmp_path / "out", limit=2)["pending"] == 0
