"""Files that are there whole or not at all, whenever the process or the machine stops."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from expedit_sam.errors import InputError


@contextmanager
def appearing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that gets its name only when it is complete.

    Until then it has a hidden name of its own that ends in ``.part``, so that where two processes
    write one file, one of them wins. A job that goes on removes those of killed processes.

    Raises:
        InputError: it cannot be written, because the disk is full for instance.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"cannot write {path} ({reason}): what is done is kept; "
            "make room, then give the same command again"
        ) from error
