from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from expedit_sam.serve.engine import Engine

PATIENCE = 60  # seconds; a test fails then, and nothing hangs


def encoded(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def png(photo: np.ndarray) -> bytes:
    return encoded(photo)


def until(reached: Callable[[], bool]) -> None:
    """Wait for what other threads do."""
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def held(engine: Engine) -> Iterator[threading.Event]:
    """The network begins, which the event tells, and is kept from going on until the end."""
    begun, go = threading.Event(), threading.Event()
    encode = engine._network.encode

    def waits(works: list) -> list:
        begun.set()
        assert go.wait(PATIENCE)
        return encode(works)

    engine._network.encode = waits  # type: ignore[method-assign, assignment]
    try:
        yield begun
    finally:
        go.set()
