from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def test_without_gradio(
    run: Callable, only_error: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'expedit-sam[demo]'" in only_error(run("demo"))


def test_a_checkpoint_that_is_missing(run: Callable, only_error: Callable) -> None:
    pytest.importorskip("gradio")
    assert "missing.pth" in only_error(run("demo", "--checkpoint", "missing.pth"))


@pytest.mark.slow
def test_app_py_serves_until_it_is_stopped(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    import requests

    from tests.demo.conftest import free_port

    port = free_port()
    process = subprocess.Popen(
        [sys.executable, ROOT / "app.py", "--port", str(port)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == f"Open http://127.0.0.1:{port}/ in a browser. Ctrl+C stops.\n"
        assert "Expedit-SAM" in requests.get(f"http://127.0.0.1:{port}/", timeout=30).text
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "interrupted"
    assert "Traceback" not in errors
