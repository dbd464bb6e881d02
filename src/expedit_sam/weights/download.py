"""Fetching an official checkpoint into the cache: resumed where it broke off, then checked."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import requests
from filelock import FileLock, Timeout
from requests.adapters import HTTPAdapter
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from urllib3.util import Retry

from expedit_sam.errors import CheckpointError
from expedit_sam.weights.cache import CACHE_VARIABLE, cache_path, is_cached, sha256
from expedit_sam.weights.registry import Checkpoint

_TRIES = 5
_PAUSE_SECONDS = 1.0
_TIMEOUT_SECONDS = (10, 60)  # to connect; between two pieces of the file
_CHUNK = 2**18


def fetch(checkpoint: Checkpoint) -> Path:
    """The checkpoint's file in the cache, downloaded if it is not there yet.

    A download that breaks off leaves ``<file>.part``, and the next call goes on from there. Only
    one process downloads a file at a time; others wait for it.

    Raises:
        CheckpointError: the file cannot be had, or is not the official one; the message says
            where to get it and where to put it.
    """
    path = cache_path(checkpoint)
    if is_cached(checkpoint):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            if not is_cached(checkpoint):
                _fetch(checkpoint, path)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path}: {error.strerror or error}; set {CACHE_VARIABLE} to a writable "
            f"folder with {checkpoint.size:,} bytes of room"
        ) from error
    return path


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the file's lock, which also ends with the process that holds it."""
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        Console(stderr=True).print(f"another process is downloading {path.name}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fetch(checkpoint: Checkpoint, path: Path) -> None:
    """Complete the .part file, compare its hash, and give it its name."""
    part = path.with_name(f"{path.name}.part")
    with _progress() as progress:
        bar = progress.add_task(
            f"downloading {path.name}", total=checkpoint.size, completed=_length(part)
        )
        _complete(checkpoint, part, lambda length: progress.update(bar, completed=length))
        progress.update(bar, description=f"checking {path.name}")
        digest = sha256(part)
    if digest != checkpoint.sha256:
        part.unlink()
        raise CheckpointError(
            f"{checkpoint.url} gave another file than the official one (its sha256 starts with "
            f"{digest[:12]}); it was deleted: try again, or {_by_hand(checkpoint)}"
        )
    part.replace(path)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _complete(checkpoint: Checkpoint, part: Path, on_length: Callable[[int], None]) -> None:
    """Bring the .part file to its full length; ``on_length`` is called with its length in bytes."""
    if _length(part) == checkpoint.size:
        return
    with _session() as session:
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_PAUSE_SECONDS)
            with suppress(requests.RequestException):  # it broke off
                _receive(session, checkpoint, part, on_length)
            if _length(part) == checkpoint.size:
                return
    raise CheckpointError(
        f"the download of {checkpoint.file} broke off at {_length(part):,} of {checkpoint.size:,} "
        f"bytes: run it again to go on from there, or {_by_hand(checkpoint)}"
    )


def _receive(
    session: requests.Session, checkpoint: Checkpoint, part: Path, on_length: Callable[[int], None]
) -> None:
    """Append the answer to one request to the .part file."""
    length = _length(part)
    start = length if length < checkpoint.size else 0
    with _request(session, checkpoint, start) as response:
        length = _offset(response, checkpoint, start)
        with part.open("ab" if length else "wb") as file:
            for chunk in response.iter_content(_CHUNK):
                length += file.write(chunk[: checkpoint.size - length])
                on_length(length)
                if length == checkpoint.size:
                    break
            file.flush()
            os.fsync(file.fileno())  # a power cut must not leave a whole-looking file


def _session() -> requests.Session:
    """A session that asks again when it gets no connection or the server is overloaded."""
    retry = Retry(
        total=_TRIES - 1,
        connect=2,
        backoff_factor=_PAUSE_SECONDS,
        status_forcelist=(429, 500, 502, 503, 504),
        raise_on_status=False,
    )
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session


def _request(session: requests.Session, checkpoint: Checkpoint, start: int) -> requests.Response:
    """Ask for the file from this byte on."""
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        return session.get(checkpoint.url, headers=headers, stream=True, timeout=_TIMEOUT_SECONDS)
    except OSError as error:
        # Errors of requests have long texts; a plain one names a missing file of certificates.
        reason = error if type(error) is OSError else type(error).__name__
        raise CheckpointError(
            f"cannot reach {checkpoint.url} ({reason}): check the connection, or "
            f"{_by_hand(checkpoint)}"
        ) from error


def _offset(response: requests.Response, checkpoint: Checkpoint, start: int) -> int:
    """Number of the first byte in the answer: ``start``, or 0 from a server that starts over.

    Raises:
        CheckpointError: the answer is an error, or brings a file of another length.
    """
    offset, size = 0, str(checkpoint.size)
    content_range = re.match(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    if response.status_code == 206 and content_range:
        offset, size = int(content_range[1]), content_range[2]
    elif response.status_code == 200:
        size = response.headers.get("Content-Length", size)
    else:
        raise CheckpointError(
            f"{checkpoint.url} answered {response.status_code} {response.reason}: try later, or "
            f"{_by_hand(checkpoint)}"
        )
    if size != str(checkpoint.size) or offset not in (0, start):
        raise CheckpointError(
            f"{checkpoint.url} offers {size} bytes from byte {offset}, not {checkpoint.size} from "
            f"{start}: {_by_hand(checkpoint)}"
        )
    return offset


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _by_hand(checkpoint: Checkpoint) -> str:
    return f"get {checkpoint.url} yourself and put it at {cache_path(checkpoint)}"
