from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from expedit_sam.errors import CheckpointError
from expedit_sam.weights import download
from expedit_sam.weights.cache import cache_path
from expedit_sam.weights.download import fetch
from expedit_sam.weights.registry import Checkpoint

PIECE = download._CHUNK  # the most that a broken request loses


def part_of(checkpoint: Checkpoint) -> Path:
    return cache_path(checkpoint).with_name(f"{checkpoint.file}.part")


def complaint_of(checkpoint: Checkpoint) -> str:
    """The one line that a failing fetch says; the cache never holds the file afterwards."""
    with pytest.raises(CheckpointError) as caught:
        fetch(checkpoint)
    assert not cache_path(checkpoint).exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_downloads_once(server, checkpoint) -> None:
    path = fetch(checkpoint)
    assert path == cache_path(checkpoint)
    assert path.read_bytes() == server.content
    assert not part_of(checkpoint).exists()
    assert fetch(checkpoint) == path
    assert server.ranges == [None]
    assert server.served == checkpoint.size


def test_tells_how_far_it_is(server, checkpoint, tmp_path) -> None:
    lengths: list[int] = []
    download._complete(checkpoint, tmp_path / "part", lengths.append)
    assert lengths == sorted(set(lengths))
    assert len(lengths) >= checkpoint.size // PIECE
    assert lengths[-1] == checkpoint.size


def test_cached_file_of_another_length_is_replaced(server, checkpoint) -> None:
    cache_path(checkpoint).parent.mkdir()
    cache_path(checkpoint).write_bytes(b"half of it")
    assert fetch(checkpoint).read_bytes() == server.content


def test_goes_on_within_one_call(server, checkpoint) -> None:
    server.script = ["breaking off", "breaking off"]
    assert fetch(checkpoint).read_bytes() == server.content
    assert [wanted is None for wanted in server.ranges] == [True, False, False]
    assert server.served <= checkpoint.size + 2 * PIECE


def test_goes_on_in_a_later_call(server, checkpoint, monkeypatch) -> None:
    monkeypatch.setattr(download, "_TRIES", 1)
    server.script = ["breaking off"]
    assert "broke off at" in complaint_of(checkpoint)
    kept = part_of(checkpoint).stat().st_size
    assert checkpoint.size // 2 - PIECE <= kept <= checkpoint.size // 2
    assert fetch(checkpoint).read_bytes() == server.content
    assert server.ranges == [None, f"bytes={kept}-"]
    assert server.served == checkpoint.size // 2 + checkpoint.size - kept


def test_gives_up_after_some_tries(server, checkpoint) -> None:
    server.script = ["breaking off"] * 99
    complaint = complaint_of(checkpoint)
    assert "run it again" in complaint
    assert checkpoint.url in complaint
    assert len(server.ranges) == download._TRIES
    assert part_of(checkpoint).stat().st_size > checkpoint.size // 2


def test_killed_process_is_resumed(server, checkpoint) -> None:
    server.script = ["stalling"]
    code = (
        "from expedit_sam.weights.registry import Checkpoint\n"
        "from expedit_sam.weights.download import fetch\n"
        f"fetch({checkpoint!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        assert server.stalled.wait(60)
        while not part_of(checkpoint).exists() or part_of(checkpoint).stat().st_size < 2 * PIECE:
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    kept = part_of(checkpoint).stat().st_size
    before = server.served
    assert fetch(checkpoint).read_bytes() == server.content
    assert server.ranges[-1] == f"bytes={kept}-"
    assert server.served - before == checkpoint.size - kept


def test_interrupt_keeps_what_came(server, checkpoint, monkeypatch) -> None:
    def interrupted(response: requests.Response, size: int) -> Iterator[bytes]:
        yield response.raw.read(1000)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(requests.Response, "iter_content", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch(checkpoint)
    assert part_of(checkpoint).read_bytes() == server.content[:1000]
    assert fetch(checkpoint).read_bytes() == server.content
    assert server.ranges == [None, "bytes=1000-"]


def test_server_that_ignores_the_range(server, checkpoint) -> None:
    server.script = ["breaking off", "ignoring the range"]
    assert fetch(checkpoint).read_bytes() == server.content
    assert server.ranges[1] is not None
    assert server.served == checkpoint.size // 2 + checkpoint.size


def test_server_without_a_length(server, checkpoint) -> None:
    server.script = ["without a length"]
    assert fetch(checkpoint).read_bytes() == server.content


def test_no_more_is_read_than_the_file_has(server, checkpoint) -> None:
    server.script = ["endlessly"]
    assert fetch(checkpoint).read_bytes() == server.content


@pytest.mark.parametrize("how", ["announcing less", "announcing more"])
def test_file_of_another_length_is_refused_before_it_is_read(server, checkpoint, how) -> None:
    server.script = [how]
    assert f"not {checkpoint.size} from 0" in complaint_of(checkpoint)
    assert not part_of(checkpoint).exists()


def test_refused_answer_leaves_the_part_alone(server, checkpoint) -> None:
    """Such as the page of a hotel's network, which answers everything with 200."""
    part_of(checkpoint).parent.mkdir()
    part_of(checkpoint).write_bytes(server.content[:5000])
    whole, server.content = server.content, b"<html>please log in</html>"
    server.script = ["ignoring the range"]
    assert "offers 26 bytes" in complaint_of(checkpoint)
    assert part_of(checkpoint).read_bytes() == whole[:5000]


def test_range_that_announces_less_than_the_rest(server, checkpoint) -> None:
    server.script = ["breaking off", "announcing less"]
    assert fetch(checkpoint).read_bytes() == server.content
    assert len(server.ranges) == 3


def test_range_from_elsewhere_is_refused(server, checkpoint) -> None:
    server.script = ["breaking off", "from elsewhere"]
    assert "from byte" in complaint_of(checkpoint)


@pytest.mark.parametrize("how", ["with wrong bytes", "part"])
def test_wrong_bytes_are_deleted(server, checkpoint, how) -> None:
    if how == "part":
        part_of(checkpoint).parent.mkdir()
        part_of(checkpoint).write_bytes(b"x" * 1000)
    else:
        server.script = [how]
    complaint = complaint_of(checkpoint)
    assert "sha256" in complaint
    assert "deleted" in complaint
    assert not part_of(checkpoint).exists()
    assert fetch(checkpoint).read_bytes() == server.content


def test_overlong_part_is_started_over(server, checkpoint) -> None:
    part_of(checkpoint).parent.mkdir()
    part_of(checkpoint).write_bytes(server.content + b"more")
    assert fetch(checkpoint).read_bytes() == server.content
    assert server.ranges == [None]


def test_complete_part_needs_no_request(server, checkpoint) -> None:
    part_of(checkpoint).parent.mkdir()
    part_of(checkpoint).write_bytes(server.content)
    assert fetch(checkpoint).read_bytes() == server.content
    assert server.ranges == []


def test_missing_file_is_said_at_once(server, checkpoint) -> None:
    server.script = ["404"]
    complaint = complaint_of(checkpoint)
    assert "404" in complaint
    assert str(cache_path(checkpoint)) in complaint
    assert len(server.ranges) == 1


def test_overloaded_server_is_asked_again(server, checkpoint) -> None:
    server.script = ["500", "503"]
    assert fetch(checkpoint).read_bytes() == server.content
    assert len(server.ranges) == 3


def test_broken_server_is_given_up(server, checkpoint) -> None:
    server.script = ["500"] * 99
    assert "500" in complaint_of(checkpoint)
    assert len(server.ranges) == download._TRIES


def test_no_network(server, checkpoint) -> None:
    unreachable = replace(checkpoint, url="http://127.0.0.1:9/sam.pth")
    complaint = complaint_of(unreachable)
    assert "cannot reach" in complaint
    assert unreachable.url in complaint
    assert str(cache_path(unreachable)) in complaint


def test_certificates_that_are_missing(checkpoint, monkeypatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/missing.pem")
    complaint = complaint_of(replace(checkpoint, url="https://127.0.0.1:9/sam.pth"))
    assert "cannot reach" in complaint
    assert "/missing.pem" in complaint


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_full_disk(checkpoint) -> None:
    part_of(checkpoint).parent.mkdir()
    part_of(checkpoint).symlink_to("/dev/full")
    complaint = complaint_of(checkpoint)
    assert "No space left" in complaint
    assert "EXPEDIT_SAM_CACHE" in complaint


def test_folder_that_cannot_be_made(checkpoint, tmp_path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EXPEDIT_SAM_CACHE", str(tmp_path / "file" / "cache"))
    assert "cannot write" in complaint_of(checkpoint)


def test_two_at_once_download_once(server, checkpoint, capsys) -> None:
    server.script = ["stalling"]
    results: list[Path] = []
    first = threading.Thread(target=lambda: results.append(fetch(checkpoint)))
    second = threading.Thread(target=lambda: results.append(fetch(checkpoint)))
    first.start()
    assert server.stalled.wait(60)  # the first one is halfway and holds the lock
    second.start()
    while "waiting for it" not in capsys.readouterr().err:
        time.sleep(0.01)
    server.released.set()
    first.join()
    second.join()
    assert results == [cache_path(checkpoint)] * 2
    assert results[0].read_bytes() == server.content
    assert len(server.ranges) == 2
    assert server.served <= checkpoint.size + PIECE
