"""A job: a fixed list of images, cut into chunks, each of which becomes one file of results.

::

    OUT/job.json               what was asked; results of anything else never go into this folder
    OUT/items.parquet          the list of images, and the versions of the files that hold several
    OUT/shards/000000.parquet  results of the first chunk, and so on
    OUT/summary.json           counts and failures

A shard that exists is done. There is no other record of progress, so there is nothing that could
disagree with the results.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from expedit_sam.batch.files import appearing
from expedit_sam.batch.readers import check_plain
from expedit_sam.batch.schema import SHARD
from expedit_sam.batch.versions import with_versions
from expedit_sam.errors import InputError


@dataclass(frozen=True)
class Job:
    """A job in its folder.

    Attributes:
        folder: of results.
        settings: what was asked; the same at every start.
        items: a row an image, with the schema ``ITEMS``.
    """

    folder: Path
    settings: dict[str, Any]
    items: pa.Table

    @classmethod
    def open(
        cls,
        folder: Path,
        settings: dict[str, Any],
        list_items: Callable[[], pa.Table],
        threads: int | None = None,
    ) -> Job:
        """Begin a job, or go on with it.

        Arguments:
            folder: of results; made if it is missing.
            settings: what is asked, as json holds it, with ``images_per_shard``.
            list_items: called when the job begins, not when it goes on.
            threads: of a new job whose settings name no number; a job that goes on keeps its own.

        Raises:
            InputError: the folder holds results of something else, or cannot be used.
        """
        with locked(folder, "begin", wait=600):
            begun = read_settings(folder)
            kept = begun.get("threads")  # None: a new job, or one on GPUs, where any number will do
            settings = settings | {"threads": settings.get("threads") or kept or threads}
            if (folder / "job.json").exists():
                _check_same(folder, begun | {"threads": kept or settings["threads"]}, settings)
                return cls(folder, settings, _read_items(folder))
            if any(folder.glob("shards/*.parquet")):
                raise InputError(f"{folder} holds shards but no job.json: choose another --out")
            items = with_versions(list_items())
            with appearing(folder / "items.parquet") as file:
                pq.write_table(items, file)
            with appearing(folder / "job.json") as file:
                file.write(json.dumps(settings, indent=2).encode() + b"\n")
        return cls(folder, settings, items)

    @property
    def chunks(self) -> range:
        """The numbers of its chunks."""
        return range(-(-self.items.num_rows // self.settings["images_per_shard"]))

    def shard(self, chunk: int) -> Path:
        """Where the results of a chunk are, or will be."""
        return self.folder / "shards" / f"{chunk:06d}.parquet"

    def pending(self, share: tuple[int, int] = (1, 1), failed: bool = False) -> list[int]:
        """The chunks that are left to do.

        Arguments:
            share: (i, n), of the i-th of n shares alone.
            failed: chunks too that are done and hold failures.
        """
        part, parts = share
        return [
            chunk
            for chunk in self.chunks[part - 1 :: parts]
            if (self.items_left(chunk).num_rows if failed else not self.shard(chunk).exists())
        ]

    def items_of(self, chunk: int) -> pa.Table:
        """The list of a chunk's images."""
        size = self.settings["images_per_shard"]
        return self.items.slice(chunk * size, size)

    def items_left(self, chunk: int) -> pa.Table:
        """Those of a chunk's images that were not done yet, or failed."""
        items = self.items_of(chunk)
        if not self.shard(chunk).exists():
            return items
        return items.filter(pc.is_valid(read_shard(self.shard(chunk), ["error"])["error"]))

    def write(self, chunk: int, results: list[pa.Table]) -> None:
        """Results of what is left of a chunk, in any order, as its shard."""
        if self.shard(chunk).exists():  # what went well stays
            before = read_shard(self.shard(chunk), SHARD.names)
            results = [*results, before.filter(pc.is_null(before["error"]))]
        table = pa.concat_tables([t.select(SHARD.names).cast(SHARD) for t in results])
        table = table.sort_by("index")
        expected = self.items_of(chunk)["index"].to_pylist()
        if table["index"].to_pylist() != expected:
            raise RuntimeError(f"chunk {chunk} has results of {table['index'].to_pylist()}")
        with appearing(self.shard(chunk)) as file:
            write_shard(table.combine_chunks(), file)

    def shards(self) -> Iterator[Path]:
        """The results there are, in order."""
        return (self.shard(c) for c in self.chunks if self.shard(c).exists())


def write_shard(table: pa.Table, file: BinaryIO | pa.NativeFile) -> None:
    """Write results, with the schema ``SHARD``; ``read_shard`` looks at the pages' checksums."""
    pq.write_table(table, file, compression="zstd", write_page_checksum=True)


def read_shard(shard: Path, columns: list[str]) -> pa.Table:
    """Columns of the results of a chunk.

    Raises:
        InputError: the file is damaged.
    """
    try:
        table = pq.ParquetFile(shard, page_checksum_verification=True).read(columns)
        check_plain(table.schema, str(shard))
        return table
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None):  # of the file system: the file may be whole
            raise InputError(f"{shard} cannot be read ({error}): allow reading it") from error
        raise InputError(
            f"{shard} is damaged: delete it and give the same command again"
        ) from error


def _read_items(folder: Path) -> pa.Table:
    try:
        items = pq.ParquetFile(folder / "items.parquet").read()
        check_plain(items.schema, f"{folder}/items.parquet")
        return items
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{folder}/items.parquet, the list of the job, is missing or damaged: "
            "put it back, or choose another --out"
        ) from error


def read_settings(folder: Path) -> dict[str, Any]:
    """What was asked of the job in a folder; empty where there is none.

    Raises:
        InputError: its job.json cannot be read.
    """
    try:
        settings = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        return dict(settings)
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, OSError) as error:
        raise InputError(f"{folder}/job.json is no job: choose another --out") from error


@contextmanager
def locked(folder: Path, name: str, wait: float = 0) -> Iterator[None]:
    """Hold a lock on a piece of work; a process that is killed lets go of it.

    Arguments:
        folder: of results; made if it is missing.
        name: of the work.
        wait: seconds to wait for another process; -1 is as long as it takes.

    Raises:
        InputError: another one is at it, or the folder cannot be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f".{name}.lock")
        lock.acquire(timeout=wait)
    except Timeout:
        raise InputError(
            f"another batch is at work on {folder}: "
            "wait for it, or stop it and start all with --shard"
        ) from None
    except OSError as error:
        raise InputError(
            f"cannot write to {folder} ({error.strerror}): choose another --out"
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def at_work(folder: Path, share: tuple[int, int]) -> Iterator[None]:
    """Hold the lock on a share of a job, so that no other process writes the same shards.

    Raises:
        InputError: another process is at this share, or at one of another number of shares,
            which may overlap; or the folder cannot be used.
    """
    with ExitStack() as kept:
        with locked(folder, "shares", wait=60):  # no share begins while the others are counted
            kept.enter_context(locked(folder, "share-{}-of-{}".format(*share)))
            numbers = _numbers_at_work(folder, share)
            if numbers - {share[1]}:
                raise InputError(
                    f"another batch is at work on {folder}, on one of {min(numbers)} shares: "
                    f"wait for it, or stop it and start all with --shard I/{share[1]}"
                )
            if not numbers:
                _remove_unfinished(folder)
        yield


def _numbers_at_work(folder: Path, own: tuple[int, int]) -> set[int]:
    """The N of every other share I/N whose lock some process holds."""
    numbers = set()
    for path in folder.glob(".share-*-of-*.lock"):
        part, parts = map(int, re.findall(r"\d+", path.name))
        if (part, parts) != own:
            try:
                with FileLock(path, timeout=0):
                    pass
            except Timeout:
                numbers.add(parts)
    return numbers


def _remove_unfinished(folder: Path) -> None:
    """Remove the temporary files of killed processes (see ``appearing``)."""
    with suppress(OSError):  # they do no harm where they cannot be removed
        for pattern in (".*.json.*part", ".*.parquet.*part", "shards/.*.parquet.*part"):
            for path in folder.glob(pattern):
                path.unlink()


def _check_same(folder: Path, begun: dict[str, Any], asked: dict[str, Any]) -> None:
    """Raise ``InputError`` unless a job is asked for what it was begun with."""
    for name in begun | asked:
        before, now = begun.get(name), asked.get(name)
        if before != now:
            raise InputError(
                f"{folder} was begun with {name} {before!r}, not {now!r}: "
                "choose another --out, or ask the same"
            )
