from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from expedit_sam.model.architectures import ARCHITECTURES
from expedit_sam.weights import download
from expedit_sam.weights.registry import CHECKPOINTS


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and weights of vit_b that are ten bytes long."""
    content = b"ten bytes!"
    sha256 = hashlib.sha256(content).hexdigest()
    small = replace(CHECKPOINTS["vit_b"], size=len(content), sha256=sha256)
    monkeypatch.setitem(CHECKPOINTS, "vit_b", small)
    monkeypatch.setenv("EXPEDIT_SAM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def row(output: str, model: str) -> str:
    (line,) = [line for line in output.splitlines() if line.split()[:1] == [model]]
    return line


@pytest.mark.parametrize("command", [("models",), ("models", "list")])
def test_list(run: Callable, cache: Path, command: tuple[str, ...]) -> None:
    result = run(*command)
    assert result.exit_code == 0
    for model in ARCHITECTURES:
        assert row(result.stdout, model)
    assert "in the package" in row(result.stdout, "vit_s")
    assert "not downloaded" in row(result.stdout, "vit_h")
    assert "2,565 MB" in row(result.stdout, "vit_h")
    assert str(cache) in result.stdout


def test_list_shows_what_is_downloaded(run: Callable, cache: Path) -> None:
    (cache / CHECKPOINTS["vit_b"].file).write_bytes(b"ten bytes!")
    assert "not downloaded" not in row(run("models").stdout, "vit_b")
    assert "sha256 correct" in row(run("models", "list", "--verify").stdout, "vit_b")


def test_verify_finds_an_altered_file(run: Callable, cache: Path, only_error: Callable) -> None:
    (cache / CHECKPOINTS["vit_b"].file).write_bytes(b"TEN bytes!")
    result = run("models", "list", "--verify")
    assert "sha256 differs" in only_error(result)
    assert "damaged" in row(result.stdout, "vit_b")
    assert "not downloaded" in row(result.stdout, "vit_h")


def test_download(run: Callable, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []
    monkeypatch.setattr(download, "fetch", lambda it: fetched.append(it) or cache / it.file)
    result = run("models", "download", "vit_b")
    assert fetched == [CHECKPOINTS["vit_b"]]
    assert result.stdout.strip() == str(cache / "sam_vit_b_01ec64.pth")


def test_download_of_what_is_there_already(run: Callable, cache: Path) -> None:
    (cache / CHECKPOINTS["vit_b"].file).write_bytes(b"ten bytes!")
    result = run("models", "download", "vit_b")
    assert result.exit_code == 0
    assert result.stdout.strip() == str(cache / "sam_vit_b_01ec64.pth")


def test_download_that_cannot_be_reached(
    run: Callable, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_PAUSE_SECONDS", 0)
    nowhere = replace(CHECKPOINTS["vit_b"], url="http://127.0.0.1:9/sam.pth")
    monkeypatch.setitem(CHECKPOINTS, "vit_b", nowhere)
    result = run("models", "download", "vit_b")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("error: cannot reach http://127.0.0.1:9")


def test_the_embedded_model_needs_no_download(run: Callable, only_error: Callable) -> None:
    line = only_error(run("models", "download", "vit_s"))
    assert line == "error: vit_s comes with the package: it needs no download"


def test_unknown_model(run: Callable) -> None:
    result = run("models", "download", "vit_x")
    assert result.exit_code == 2
    assert "vit_b" in result.stderr
