"""Sources on other machines: S3 and HTTP, each from a real server on this one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from expedit_sam.batch import Task, loading
from expedit_sam.batch.job import Job
from expedit_sam.batch.run import in_this_process, run
from expedit_sam.batch.sources import list_items
from expedit_sam.errors import InputError
from expedit_sam.model.sam import Sam
from tests.batch.conftest import TAKE_ALL, rows_of
from tests.batch.test_sources import listed, png, shows

s3fs = pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")


class Store:
    """An S3 server that can be stopped and started again with the same objects."""

    def __init__(self) -> None:
        self.port = 0
        self.start()

    def start(self) -> None:
        self.server = moto_server.ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self.server.start()
        _, self.port = self.server.get_host_and_port()

    def stop(self) -> None:
        self.server.stop()


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """``s3://bucket/photos`` with three pictures."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "anything")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # s3fs tries again by itself, five times
    store = Store()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{store.port}")
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem()
    files.makedirs("bucket", exist_ok=True)
    for number in range(3):
        files.pipe(f"bucket/photos/{number}.png", png(number))
    files.pipe("bucket/list.txt", b"photos/2.png\ns3://bucket/photos/0.png\n")
    yield store
    s3fs.S3FileSystem.clear_instance_cache()
    store.stop()


def test_s3(store: Store) -> None:
    items = listed("s3://bucket/photos")
    assert [item["image"] for item in items] == ["0.png", "1.png", "2.png"]
    shows(items, 0, 1, 2)
    shows(listed("s3://bucket/photos/[12].png"), 1, 2)
    shows(listed("s3://bucket/list.txt"), 2, 0)


@pytest.mark.parametrize("place", ["s3://bucket/nothing", "s3://elsewhere/photos"])
def test_not_on_s3(store: Store, place: str) -> None:
    with pytest.raises(InputError, match=f"{place} does not exist"):
        list_items(place)


def test_a_store_that_is_away_for_a_while(
    store: Store, tmp_path: Path, few: Sam, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_RETRY_WAITS", ())
    job = Job.open(
        tmp_path / "out", {"images_per_shard": 2}, lambda: list_items("s3://bucket/photos")
    )
    pipeline = in_this_process(few, Task.of(few, everything=TAKE_ALL))
    run(job, pipeline, [0])
    store.stop()
    run(job, pipeline, [1])
    assert ["cannot be read" in (row["error"] or "") for row in rows_of(job.folder)] == [
        False,
        False,
        True,
    ]
    assert job.pending() == []
    store.start()
    assert job.pending(failed=True) == [1]
    run(job, pipeline, job.pending(failed=True))
    assert [row["error"] for row in rows_of(job.folder)] == [None] * 3


def test_http(pictures: Path) -> None:
    (pictures / "list.txt").write_text("000.png\n001.png\n")
    handler = partial(SimpleHTTPRequestHandler, directory=str(pictures))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        shows(listed(f"{address}/list.txt"), 0, 1)
        with pytest.raises(InputError, match="does not exist"):
            list_items(f"{address}/nothing.txt")
        server.shutdown()
