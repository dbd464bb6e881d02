from __future__ import annotations

import errno
import json
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from expedit_sam.batch.files import appearing
from expedit_sam.batch.job import Job, at_work, locked, read_settings, read_shard
from expedit_sam.batch.run import Progress, blocks, in_this_process, run
from expedit_sam.batch.schema import ITEMS, SECONDS, SHARD
from expedit_sam.batch.sources import list_items
from expedit_sam.batch.summary import write_coco, write_summary
from expedit_sam.batch.task import Task
from expedit_sam.errors import InputError
from expedit_sam.model.sam import Sam
from tests.batch.conftest import TAKE_ALL, rows_of, shards_of

SETTINGS = {"images_per_shard": 5, "speed": "exact"}  # of the six pictures


def job_of(out: Path, pictures: Path, **more: Any) -> Job:
    return Job.open(out, SETTINGS | more, lambda: list_items(str(pictures)))


def items(number: int) -> pa.Table:
    return pa.Table.from_pylist([{"index": i} for i in range(number)], ITEMS)


@given(
    number=st.integers(1, 200),
    size=st.integers(1, 40),
    parts=st.integers(1, 9),
    done=st.sets(st.integers(0, 200)),
)
def test_every_image_is_in_one_block_of_one_share(
    number: int, size: int, parts: int, done: set[int]
) -> None:
    class Begun(Job):
        def shard(self, chunk: int) -> Any:
            return Path(__file__ if chunk in done else "/missing")

    job = Begun(Path(), {"images_per_shard": size}, items(number))
    seen = [
        index
        for part in range(1, parts + 1)
        for block in blocks(job, job.pending((part, parts)))
        for index in block["index"].to_pylist()
    ]
    assert sorted(seen) == [i for i in range(number) if i // size not in done]
    for block in blocks(job, job.pending()):
        assert len({index // size for index in block["index"].to_pylist()}) == 1


def test_a_job_from_begin_to_end(tmp_path: Path, pictures: Path, few: Sam) -> None:
    job = job_of(tmp_path / "out", pictures)
    task = Task.of(few, everything=TAKE_ALL)
    progress = run(job, in_this_process(few, task))
    rows = rows_of(tmp_path / "out")
    assert [row["image"] for row in rows] == [f"{n:03d}.png" for n in range(6)]
    assert [row["error"] is None for row in rows] == [True, True, False, True, True, True]
    assert all(row["masks"] for row in rows if row["error"] is None)
    assert (progress.images, progress.failures) == (6, 1)
    summary = write_summary(job, progress, 0)
    assert summary == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["segmented"], summary["failed"], summary["pending"]) == (5, 1, 0)
    assert summary["masks"] == progress.masks == sum(len(row["masks"] or []) for row in rows)
    assert summary["failures"][0]["image"] == "002.png"


def test_shares_make_the_same_files_in_any_order(tmp_path: Path, pictures: Path, few: Sam) -> None:
    task = Task.of(few, everything=TAKE_ALL)
    run(job_of(tmp_path / "whole", pictures), in_this_process(few, task))
    for part in (2, 1):
        job = job_of(tmp_path / "parts", pictures)
        run(job, in_this_process(few, task), job.pending((part, 2)))
        assert len(shards_of(tmp_path / "parts")) == {2: 1, 1: 2}[part]
    assert shards_of(tmp_path / "whole") == shards_of(tmp_path / "parts")


def results(*indices: int) -> pa.Table:
    schema = pa.schema([*SHARD, ("seconds", SECONDS)])
    return pa.Table.from_pylist([{"index": i, "seconds": {}} for i in indices], schema)


def test_blocks_may_come_in_any_order(tmp_path: Path) -> None:
    job = Job.open(tmp_path, SETTINGS, lambda: items(6))
    run(job, lambda _: iter([results(5), results(4), results(2, 3), results(0, 1)]))
    assert [row["index"] for row in rows_of(tmp_path)] == list(range(6))
    assert len(shards_of(tmp_path)) == 2


@pytest.mark.parametrize(
    ("blocks", "says"),
    [
        ([(0, 1), (4,), (5,)], r"chunks \[0\] are incomplete"),
        ([(0, 1), (0, 1), (4,), (5,)], r"chunk 0 has results of \[0, 0, 1, 1, 4\]"),
    ],
)
def test_a_shard_has_each_of_its_images_once(
    tmp_path: Path, blocks: list[tuple[int, ...]], says: str
) -> None:
    job = Job.open(tmp_path, SETTINGS, lambda: items(6))
    with pytest.raises(RuntimeError, match=says):
        run(job, lambda _: iter([results(*block) for block in blocks]))
    assert not job.shard(0).exists()


def test_the_list_is_fixed_when_the_job_begins(tmp_path: Path, pictures: Path) -> None:
    folder = tmp_path / "runs" / "out"
    job_of(folder, pictures)
    (pictures / "000.png").unlink()
    assert job_of(folder, pictures).items.num_rows == 6


def test_only_the_same_question_goes_on(tmp_path: Path, pictures: Path) -> None:
    job_of(tmp_path, pictures)
    with pytest.raises(InputError, match="was begun with speed 'exact', not 'fast': choose"):
        job_of(tmp_path, pictures, speed="fast")
    (tmp_path / "job.json").write_text("{")
    with pytest.raises(InputError, match=r"job\.json is no job"):
        job_of(tmp_path, pictures)


def test_the_first_difference_is_named(tmp_path: Path, pictures: Path) -> None:
    asked = ["source", "images", "model", "speed", "everything", "weights"]
    job_of(tmp_path, pictures, **dict.fromkeys(asked, "a"))
    with pytest.raises(InputError, match="was begun with speed 'a', not 'b'"):
        job_of(tmp_path, pictures, **dict.fromkeys(asked, "b"))


def test_shards_of_nobody_are_left_alone(tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "000000.parquet").write_bytes(b"precious")
    with pytest.raises(InputError, match="holds shards but no"):
        job_of(tmp_path, pictures)
    assert shards_of(tmp_path) == {"000000.parquet": b"precious"}


def test_a_source_that_will_not_do_leaves_no_job(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        job_of(tmp_path / "out", tmp_path / "missing")
    assert not (tmp_path / "out" / "job.json").exists()


def test_a_job_begins_when_its_list_is_written(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("expedit_sam.batch.job.pq.write_table", full)
    with pytest.raises(InputError, match="No space left on device"):
        job_of(tmp_path, pictures)
    assert read_settings(tmp_path) == {}
    monkeypatch.undo()
    assert job_of(tmp_path, pictures).items.num_rows == 6


def test_nobody_else_begins_a_job_that_is_beginning(tmp_path: Path) -> None:
    def list_items() -> pa.Table:
        with pytest.raises(InputError, match="another batch is at work"), locked(tmp_path, "begin"):
            pass
        return items(3)

    assert Job.open(tmp_path, SETTINGS, list_items).items.num_rows == 3


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        FileLock(tmp_path / ".share.lock"),
        pytest.raises(InputError, match="another batch is at work"),
        locked(tmp_path, "share"),
    ):
        pass


def test_a_full_disk_keeps_what_is_done(
    tmp_path: Path, pictures: Path, few: Sam, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task.of(few, everything=TAKE_ALL)
    run(job_of(tmp_path / "whole", pictures), in_this_process(few, task))
    job = job_of(tmp_path / "out", pictures)
    write_table = pa.parquet.write_table

    def full(table: pa.Table, file: BinaryIO, **options: Any) -> None:
        if job.shard(0).exists():
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        write_table(table, file, **options)

    monkeypatch.setattr("expedit_sam.batch.job.pq.write_table", full)
    with pytest.raises(InputError, match=r"000001\.parquet \(No space left on device\): what is"):
        run(job, in_this_process(few, task))
    assert [path.name for path in (tmp_path / "out" / "shards").iterdir()] == ["000000.parquet"]
    monkeypatch.undo()
    run(job_of(tmp_path / "out", pictures), in_this_process(few, task))
    assert shards_of(tmp_path / "out") == shards_of(tmp_path / "whole")


def test_half_a_file_never_has_its_name(tmp_path: Path) -> None:
    def break_off() -> None:
        with appearing(tmp_path / "x") as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_a_file_leave_one_whole(tmp_path: Path) -> None:
    with appearing(tmp_path / "x") as first, appearing(tmp_path / "x") as second:
        for text in (b"first", b"second"):
            (first if text == b"first" else second).write(text)
            assert all(p.name.startswith(".x.") and p.suffix == ".part" for p in tmp_path.iterdir())
    assert (tmp_path / "x").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_shares_that_may_overlap_are_refused(tmp_path: Path) -> None:
    with at_work(tmp_path, (2, 2)), at_work(tmp_path, (1, 2)):
        for share in ((1, 1), (3, 3), (2, 2)):
            with (
                pytest.raises(InputError, match=r"at work.*wait for it, or stop it and start all"),
                at_work(tmp_path, share),
            ):
                pass
    with at_work(tmp_path, (1, 1)):
        pass


def test_what_killed_runs_left_goes_when_nobody_is_at_work(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    left = [".coco.json.0a.part", "shards/.000003.parquet.0b.part"]
    kept = [".mine.part", "shards/000003.parquet"]
    for name in left + kept:
        (tmp_path / name).write_bytes(b"half")
    with locked(tmp_path, "share-1-of-2"), at_work(tmp_path, (2, 2)):
        assert all((tmp_path / name).exists() for name in left)
    with at_work(tmp_path, (2, 2)):
        assert not any((tmp_path / name).exists() for name in left)
    assert all((tmp_path / name).exists() for name in kept)


@pytest.mark.parametrize("whole", ["nothing", "footer"])
def test_a_damaged_shard_is_named(tmp_path: Path, pictures: Path, few: Sam, whole: str) -> None:
    job = job_of(tmp_path, pictures)
    run(job, in_this_process(few, Task.of(few, everything=TAKE_ALL)))
    data = job.shard(1).read_bytes()
    footer = data[-8 - int.from_bytes(data[-8:-4], "little") :] if whole == "footer" else b""
    job.shard(1).write_bytes(footer.rjust(len(data), b"\0"))
    for read in (
        lambda: write_summary(job, Progress(), 0),
        lambda: write_coco(job),
        lambda: job.pending(failed=True),
    ):
        with pytest.raises(InputError, match=r"000001\.parquet is damaged: delete it and give"):
            read()


def test_no_flipped_bit_of_a_shard_goes_unseen(tmp_path: Path, pictures: Path, few: Sam) -> None:
    job = job_of(tmp_path, pictures)
    run(job, in_this_process(few, Task.of(few, everything=TAKE_ALL)))
    whole, data = read_shard(job.shard(1), SHARD.names), job.shard(1).read_bytes()
    footer = 8 + int.from_bytes(data[-8:-4], "little")
    for place in range(4, len(data) - footer, 37):
        flipped = bytearray(data)
        flipped[place] ^= 4
        job.shard(1).write_bytes(flipped)
        with suppress(InputError):
            assert read_shard(job.shard(1), SHARD.names) == whole


def test_a_list_that_is_gone(tmp_path: Path, pictures: Path) -> None:
    job_of(tmp_path, pictures)
    (tmp_path / "items.parquet").unlink()
    with pytest.raises(InputError, match=r"items\.parquet.* is missing or damaged: put it back"):
        job_of(tmp_path, pictures)


def test_a_job_keeps_its_threads(tmp_path: Path, pictures: Path) -> None:
    def threads(asked: int | None, fitting: int | None) -> int | None:
        settings = SETTINGS | {"threads": asked}
        job = Job.open(tmp_path, settings, lambda: list_items(str(pictures)), fitting)
        return job.settings["threads"]

    assert threads(None, None) is None  # on a GPU
    assert threads(None, 2) == threads(2, 4) == 2  # which fixes nothing
    (tmp_path / "job.json").unlink()
    assert threads(None, 2) == threads(None, 4) == threads(2, None) == 2
    with pytest.raises(InputError, match="was begun with threads 2, not 4"):
        threads(4, 4)
