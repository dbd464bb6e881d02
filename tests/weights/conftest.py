from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from expedit_sam.model.architectures import ARCHITECTURES, Architecture
from expedit_sam.weights import download
from expedit_sam.weights.registry import Checkpoint

SMALL = {
    "vit_s": Architecture(16, 2, 2, (), 0, False, 64, 16, 16, 2, 32, 16),
    "vit_b": Architecture(24, 3, 2, (1,), 2, True, 64, 16, 16, 2, 32, 16),
    "vit_l": Architecture(32, 4, 2, (1, 3), 2, True, 64, 16, 16, 2, 32, 16),
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of a few thousand weights under the usual names."""
    for name, architecture in SMALL.items():
        monkeypatch.setitem(ARCHITECTURES, name, architecture)


class FileServer:
    """An HTTP server of one file; ``script`` says how it misbehaves, one entry a request.

    Attributes:
        served: bytes of the file that it has sent.
        ranges: the Range header of every request, None without one.
        stalled, released: set when a "stall" answer is halfway; set it to let that one end.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.script: list[str] = []
        self.served = 0
        self.ranges: list[str | None] = []
        self.stalled, self.released = threading.Event(), threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.handle_error = lambda *args: None  # a killed client is no news
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/sam.pth"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        how = self.script.pop(0) if self.script else "properly"
        wanted = handler.headers.get("Range")
        self.ranges.append(wanted)
        if how.isdigit():
            handler.send_error(int(how))
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
        if how == "ignoring the range":
            start = 0
        if how == "from elsewhere":
            start -= 1
        body = self.content[start:]
        announced, sent = len(body), len(body)
        if how == "breaking off" or how == "stalling":
            sent = len(body) // 2
        elif how == "announcing less":
            announced = sent = len(body) // 2
        elif how == "announcing more":
            announced += 1000
        elif how == "with wrong bytes":
            body = bytes(len(body))
        handler.send_response(206 if start else 200)
        if start:
            total = len(self.content)
            handler.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if how != "without a length" and how != "endlessly":
            handler.send_header("Content-Length", str(announced))
        handler.end_headers()
        handler.wfile.write(body[:sent])
        self.served += sent
        if how == "endlessly":
            handler.wfile.write(bytes(1000))
        if how == "stalling":
            handler.wfile.flush()
            self.stalled.set()
            self.released.wait(60)

    def close(self) -> None:
        self.released.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server() -> Iterator[FileServer]:
    content = bytes(range(256)) * 12_000 + b"odd"
    server = FileServer(content)
    yield server
    server.close()


@pytest.fixture
def checkpoint(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    """The server's file as an official checkpoint, an empty cache folder, and no waiting."""
    monkeypatch.setenv("EXPEDIT_SAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "_PAUSE_SECONDS", 0)
    sha256 = hashlib.sha256(server.content).hexdigest()
    return Checkpoint("vit_b", "sam.pth", server.url, len(server.content), sha256, "MIT", "a test")
