from __future__ import annotations

import inspect
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from expedit_sam.errors import InputError

ROOT = Path(__file__).parent.parent.parent


def test_a_port_that_is_taken(run: Callable, only_error: Callable) -> None:
    pytest.importorskip("fastapi")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = only_error(run("serve", "--port", port))
    assert line == (
        f"error: cannot listen on 127.0.0.1, port {port}: choose others with --host and --port"
    )


def test_without_the_extra(
    run: Callable, only_error: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("expedit_sam.extras.find_spec", lambda name: None)
    line = only_error(run("serve"))
    assert line == "error: the service needs fastapi: pip install 'expedit-sam[serve]'"


@pytest.mark.usefixtures("tiny_vit_s")
def test_limits_are_those_asked_for(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi")
    from expedit_sam.serve.engine import Engine

    given: dict[str, Any] = {}

    def engine(*arguments: Any) -> None:
        given.update(inspect.signature(Engine).bind(*arguments).arguments)

    def build_app(engine: None, megabytes: float) -> None:
        given["megabytes"] = megabytes
        raise InputError("enough")

    monkeypatch.setattr("expedit_sam.serve.engine.Engine", engine)
    monkeypatch.setattr("expedit_sam.serve.app.build_app", build_app)
    limits = {"megabytes": 3, "megapixels": 4, "kept": 5, "waiting": 6}
    asked = [part for name, value in limits.items() for part in (f"--{name}", value)]
    run("serve", "--port", 0, "--checkpoint", "random", "--precision", "bfloat16", *asked)
    named = {"model": "vit_s", "speed": "exact in bfloat16"}
    assert given.items() >= (limits | named).items()


def test_the_service_itself(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    program = [sys.executable, "-m", "tests.batch.tiny_program", "serve", "--port", "0"]
    process = subprocess.Popen(
        [*program, "--checkpoint", "random", "--speed", "balanced"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        address = process.stdout.readline().split()[-1]
        assert address.startswith("http://127.0.0.1:")
        health = requests.get(address + "health", timeout=120).json()
        assert (health["model"], health["speed"]) == ("vit_s", "balanced")
    finally:
        process.terminate()
        process.wait()
    assert process.stderr.read() == ""
