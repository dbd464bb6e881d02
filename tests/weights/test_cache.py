from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from expedit_sam.errors import CheckpointError
from expedit_sam.weights.cache import cache_folder, cache_path, is_cached, sha256, verify
from expedit_sam.weights.registry import Checkpoint

CONTENT = b"weights" * 1000


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    monkeypatch.setenv("EXPEDIT_SAM_CACHE", str(tmp_path))
    digest = hashlib.sha256(CONTENT).hexdigest()
    return Checkpoint("vit_b", "sam.pth", "http://localhost/", len(CONTENT), digest, "MIT", "test")


def test_folder_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPEDIT_SAM_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"


def test_folder_from_the_environment_knows_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPEDIT_SAM_CACHE", "~/models")
    assert cache_folder() == Path.home() / "models"


@pytest.mark.skipif(sys.platform == "win32", reason="Python guesses everybody's home there")
def test_folder_from_the_environment_knows_not_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPEDIT_SAM_CACHE", "~nobody-here/models")
    assert cache_folder() == Path("~nobody-here/models").absolute()


@pytest.mark.parametrize("value", [None, ""])
def test_folder_is_the_platforms_by_default(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("EXPEDIT_SAM_CACHE", raising=False)
    if value is not None:
        monkeypatch.setenv("EXPEDIT_SAM_CACHE", value)
    assert cache_folder().is_absolute()
    assert "expedit-sam" in cache_folder().parts


def test_sha256_equals_hashlib(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000  # more than one piece
    (tmp_path / "file").write_bytes(content)
    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_whole_file_is_cached_and_verified(entry: Checkpoint) -> None:
    assert not is_cached(entry)
    cache_path(entry).write_bytes(CONTENT)
    assert is_cached(entry)
    assert verify(entry) == cache_path(entry)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(None, "does not exist"), (CONTENT[:-1], "6,999 bytes"), (bytes(len(CONTENT)), "sha256")],
)
def test_verify_says_what_is_wrong(
    entry: Checkpoint, content: bytes | None, complaint: str
) -> None:
    if content is not None:
        cache_path(entry).write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        verify(entry)
    message = str(caught.value)
    assert complaint in message
    assert str(cache_path(entry)) in message
    assert "\n" not in message
