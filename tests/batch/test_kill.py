"""A batch that is killed at any moment goes on as if nothing had been."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.batch.conftest import rows_of, shards_of, write_pictures

ROOT = Path(__file__).parent.parent.parent
LONGEST = 240  # seconds that a batch may take, Ray's start on a busy machine included


def command(source: Path, out: Path, *more: str) -> list[str]:
    values = {
        "out": str(out),
        "checkpoint": "random",
        "points-per-side": "2",
        "pred-iou-thresh": "-100",
        "stability-score-thresh": "0",
        "min-mask-region-area": "0",
        "images-per-shard": "4",
        "threads": "1",
    }
    program = [sys.executable, "-m", "tests.batch.tiny_program", "batch", str(source)]
    return [*program, *(f"--{name}={value}" for name, value in values.items()), *more]


def finish(source: Path, out: Path, *more: str) -> None:
    done = subprocess.run(
        command(source, out, *more), cwd=ROOT, capture_output=True, text=True, timeout=LONGEST
    )
    assert done.returncode == 0, done.stderr
    # Nothing but progress, a line a minute.
    assert [line for line in done.stderr.splitlines() if "images/s" not in line] == []


def wait_for_shards(number: int, out: Path, process: subprocess.Popen[Any]) -> None:
    """Wait until a batch has written so many shards, or has ended."""
    deadline = time.monotonic() + LONGEST
    while len(list(out.glob("shards/*.parquet"))) < number and process.poll() is None:
        if time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"no {number} shards in {out} within {LONGEST} s")
        time.sleep(0.01)


def kill_after(shards: int, source: Path, out: Path, *more: str) -> None:
    """Kill a batch as soon as so many shards are there, in the middle of the next."""
    process = subprocess.Popen(command(source, out, *more), cwd=ROOT)
    wait_for_shards(shards, out, process)
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """Pictures, and the shards of a batch of them that nobody has disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    source = write_pictures(folder / "pictures", 24)
    (source / "010.png").write_bytes(b"no picture")
    finish(source, folder / "out", "--workers", "0")
    return source, shards_of(folder / "out")


def test_killed_twice_and_resumed(whole: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    source, shards = whole
    out = tmp_path / "out"
    kill_after(1, source, out, "--workers", "0")
    assert 1 <= len(shards_of(out)) < 6
    (out / "shards" / ".000003.parquet.part").write_bytes(b"as a power cut might leave it")
    kill_after(3, source, out, "--workers", "0")
    finish(source, out, "--workers", "0")
    assert shards_of(out) == shards
    rows = rows_of(out)
    assert [row["index"] for row in rows] == list(range(24))
    assert [row["image"] for row in rows if row["error"]] == ["010.png"]


@pytest.mark.slow
def test_on_ray_as_in_one_process(whole: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    """Two workers, the driver killed in between: the same bytes, and not a word."""
    pytest.importorskip("ray")
    source, shards = whole
    kill_after(1, source, tmp_path / "out", "--workers", "2")
    finish(source, tmp_path / "out", "--workers", "2")
    assert shards_of(tmp_path / "out") == shards


@pytest.mark.slow
def test_control_c_on_ray(tmp_path: Path) -> None:
    """As a terminal sends it, to every process of the command: one word, and what is done stays."""
    pytest.importorskip("ray")
    source = write_pictures(tmp_path / "pictures", 200)
    out = tmp_path / "out"
    process = subprocess.Popen(
        command(source, out, "--workers", "1"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for_shards(1, out, process)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    told, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert told == ""
    lines = [line for line in errors.splitlines() if line and "images/s" not in line]
    assert lines == ["interrupted"]
    assert 1 <= len(shards_of(out)) < 50
    assert not list(out.glob("shards/.*"))
