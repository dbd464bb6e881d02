from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from expedit_sam import extras, products
from expedit_sam.build import RANDOM, build_sam
from expedit_sam.errors import InputError

ROOT = Path(__file__).parent.parent.parent


def test_without_gradio(
    run: Callable, only_error: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    assert "pip install 'expedit-sam[demo]'" in only_error(run("demo"))


def test_a_checkpoint_that_is_missing(run: Callable, only_error: Callable) -> None:
    pytest.importorskip("gradio")
    assert "missing.pth" in only_error(run("demo", "--checkpoint", "missing.pth"))


@pytest.mark.usefixtures("tiny_vit_s")
def test_every_network_has_the_precision_asked_for(
    run: Callable, only_error: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gradio")
    from tests.demo.conftest import free_port

    served: list[Any] = []

    def running(networks: Any, *_: Any) -> None:
        served.append(networks)
        raise InputError("enough")

    monkeypatch.setattr("expedit_sam.demo.server.running", running)
    monkeypatch.setattr(
        "expedit_sam.demo.networks.build_sam", partial(build_sam, checkpoint=RANDOM)
    )
    monkeypatch.setattr(products, "has_bfloat16_products", lambda: True)
    options = ["--port", free_port(), "--checkpoint", RANDOM, "--precision", "bfloat16"]
    assert only_error(run("demo", *options)) == "error: enough"
    (networks,) = served
    assert networks.names[:2] == ["vit_s (random)", "vit_s"]
    for name in networks.names[:2]:
        assert networks.sam(name).image_encoder.pos_embed.dtype == torch.bfloat16


@pytest.mark.parametrize("host", ["203.0.113.1", "a" * 70, "ä" * 70])
def test_an_address_that_cannot_be_had(run: Callable, only_error: Callable, host: str) -> None:
    pytest.importorskip("gradio")
    line = only_error(run("demo", "--host", host, "--checkpoint", "missing.pth"))
    assert line.startswith(f"error: cannot listen on {host}, port 7860: choose others with --host")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("by", "code", "last_word"), [(signal.SIGINT, 130, "interrupted\n"), (signal.SIGTERM, 143, "")]
)
def test_app_py_serves_until_it_is_stopped(
    tmp_path: Path, by: signal.Signals, code: int, last_word: str
) -> None:
    pytest.importorskip("gradio")
    import requests

    from tests.demo.conftest import free_port

    port = free_port()
    process = subprocess.Popen(
        [sys.executable, ROOT / "app.py", "--port", str(port)],
        cwd=tmp_path,
        env=os.environ
        | {"PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1", "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == f"Open http://127.0.0.1:{port}/ in a browser. Ctrl+C stops.\n"
        address = f"http://127.0.0.1:{port}/"
        assert "Expedit-SAM" in requests.get(address, timeout=30).text
        requests.post(f"{address}gradio_api/upload", files={"files": b"secret"}, timeout=30)
        assert len(list(tmp_path.glob("expedit-sam-demo-*/*/files"))) == 1
    finally:
        process.send_signal(by)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert errors.endswith(last_word)
    assert "Traceback" not in errors
    assert not list(tmp_path.glob("expedit-sam-demo-*"))
