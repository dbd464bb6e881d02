"""Where downloaded checkpoints lie, and whether they are what they should be."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import platformdirs

from expedit_sam.errors import CheckpointError
from expedit_sam.weights.registry import Checkpoint

CACHE_VARIABLE = "EXPEDIT_SAM_CACHE"
_CHUNK = 2**20


def cache_folder() -> Path:
    """The platform's cache folder, or the one that EXPEDIT_SAM_CACHE names."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        known = os.path.expanduser(chosen)  # noqa: PTH111  (Path's raises at unknown users)
        return Path(known).absolute()
    return platformdirs.user_cache_path("expedit-sam", appauthor=False)


def cache_path(checkpoint: Checkpoint) -> Path:
    """Where this checkpoint lies once it is there."""
    return cache_folder() / checkpoint.file


def is_cached(checkpoint: Checkpoint) -> bool:
    """Whether the whole file is there, judged by its length; ``verify`` reads its bytes too."""
    path = cache_path(checkpoint)
    return path.is_file() and path.stat().st_size == checkpoint.size


def verify(checkpoint: Checkpoint) -> Path:
    """Read the cached file and compare its hash; returns its path.

    Raises:
        CheckpointError: it is missing, incomplete or altered.
    """
    path = cache_path(checkpoint)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist: download {checkpoint.model} first")
    size = path.stat().st_size
    if size != checkpoint.size:
        raise CheckpointError(
            f"{path} has {size:,} bytes, not {checkpoint.size:,}: delete it and download it again"
        )
    if sha256(path) != checkpoint.sha256:
        raise CheckpointError(
            f"{path} is not the official file (its sha256 differs): delete it and download it again"
        )
    return path


def sha256(path: Path) -> str:
    """Hash of a file as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
