"""What the server gives, and what it does not."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
import requests

from expedit_sam.demo.networks import Networks
from expedit_sam.demo.server import UPLOAD_LIMIT, running
from expedit_sam.errors import InputError
from tests.demo.conftest import free_port

pytestmark = pytest.mark.slow


def test_it_listens_on_loopback_alone(address: str) -> None:
    assert urlsplit(address).hostname == "127.0.0.1"
    port = urlsplit(address).port
    outside = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), port)}
    for other in outside - {"127.0.0.1", "::1"}:
        with pytest.raises(OSError, match=r"."):
            socket.create_connection((other, port), timeout=2)


@pytest.mark.parametrize("way", ["file=", "file/"])
def test_no_file_of_the_server_can_be_read(address: str, tmp_path: Path, way: str) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    here = Path(__file__)
    weights = here.parents[2] / "src/expedit_sam/weights/data/vit_s.safetensors"
    for path in (secret, here, weights, Path("/etc/passwd"), Path("pyproject.toml")):
        for name in (str(path), quote(str(path), safe=""), f"../../..{path}"):
            answer = requests.get(f"{address}gradio_api/{way}{name}", timeout=30)
            assert answer.status_code in (403, 404, 405), name


@pytest.mark.parametrize("meta", [{"meta": {"_type": "gradio.FileData"}}, {"meta": {}}, {}])
def test_no_file_of_the_server_can_be_chosen_as_a_picture(address: str, meta: dict) -> None:
    picture = Path(__file__).parents[2] / "docs/images/coffee.jpg"
    config = requests.get(f"{address}config", timeout=30).json()
    (choose,) = [event for event in config["dependencies"] if event["api_name"] == "choose"]
    request = {
        "data": [None, {"path": str(picture), **meta}],
        "fn_index": choose["id"],
        "session_hash": "intruder",
    }
    requests.post(f"{address}gradio_api/queue/join", json=request, timeout=30).raise_for_status()
    answers = requests.get(
        f"{address}gradio_api/queue/data?session_hash=intruder", stream=True, timeout=60
    )
    events = (json.loads(line[6:]) for line in answers.iter_lines() if line.startswith(b"data: "))
    (end,) = [event for event in events if event["msg"] == "process_completed"]
    assert not end["success"] or "This is no upload" in str(end)
    assert "coffee" not in str(end)


def test_an_upload_beyond_the_limit_is_refused(address: str) -> None:
    too_long = (int(UPLOAD_LIMIT.removesuffix("mb")) + 1) * 2**20
    answer = requests.post(
        f"{address}gradio_api/upload",
        files={"files": ("long.png", b"\0" * too_long)},
        timeout=60,
    )
    assert answer.status_code == 413


def test_the_page_asks_nobody_else(address: str) -> None:
    page = requests.get(address, timeout=30).text
    assert "fonts.googleapis.com" not in page
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    config = requests.get(f"{address}config", timeout=30).json()
    assert config["analytics_enabled"] is False
    assert all(event["api_visibility"] == "private" for event in config["dependencies"])


def test_a_port_that_is_taken(tiny_networks: Networks) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with (
            pytest.raises(InputError, match=f"port {port}: choose others with --host and --port"),
            running(tiny_networks, "127.0.0.1", port),
        ):
            pass


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_its_files_go_with_it(tiny_networks: Networks, host: str) -> None:
    with running(tiny_networks, host, free_port()) as address:
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        assert folder.is_dir()
        assert requests.get(address, timeout=30).ok
    assert not folder.exists()
    with pytest.raises(requests.ConnectionError):
        requests.get(address, timeout=5)
