"""Files that appear in a folder together, complete, or not at all."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from expedit_sam.errors import InputError

HIDDEN = ".expedit-sam-"  # names of folders that are being filled begin with it

_ABANDONED_SECONDS = 24 * 3600  # after which a hidden folder is no running process's


def mask_name(number: int) -> str:
    """The file of a mask in its folder, from 1."""
    return f"{number:03d}.png"


def prepare_folder(folder: str | os.PathLike[str]) -> None:
    """Make a folder for results, before the work begins, and clear away what killed runs left.

    Raises:
        InputError: it cannot be made, or nothing can be written in it.
    """
    with appearing_together(Path(folder)):
        for place in Path(folder).glob(f"{HIDDEN}*"):
            with suppress(FileNotFoundError):  # another process cleared it away
                if time.time() - place.stat().st_mtime > _ABANDONED_SECONDS:
                    shutil.rmtree(place, ignore_errors=True)


@contextmanager
def appearing_together(folder: Path) -> Iterator[Path]:
    """A hidden folder whose files move to ``folder`` once all of them are written.

    Raises:
        InputError: the folder cannot be written to, or something is in a result's place.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=folder, prefix=HIDDEN, ignore_cleanup_errors=True
        ) as place:
            yield Path(place)
            written = sorted(Path(place).iterdir())
            for path in written:  # all of them, before the first is moved
                _check_kind(path, folder / path.name)
            for path in written:
                if (folder / path.name).is_dir():
                    _replace_masks(path, folder / path.name)
                else:
                    path.replace(folder / path.name)
    except OSError as error:
        what, remedy = f"to {folder}", "choose another folder"
        if error.errno == errno.ENAMETOOLONG and Path(error.filename) != folder:
            what, remedy = Path(error.filename).name, "shorten the image's name"
        reason = error.strerror or str(error)
        raise InputError(f"cannot write {what} ({reason}): {remedy}") from error


def _check_kind(new: Path, old: Path) -> None:
    """Raise ``InputError`` where a file would replace a folder, or a folder a file."""
    if old.exists() and old.is_dir() != new.is_dir():
        kind = "folder" if old.is_dir() else "file"
        raise InputError(f"{old} is a {kind} in a result's place: choose another folder")


def _replace_masks(new: Path, old: Path) -> None:
    """Move the masks of one folder into another, and delete what an earlier run had more."""
    # In order, so that a run that is stopped here leaves no gap in the numbers.
    masks = sorted(new.iterdir(), key=lambda mask: (len(mask.name), mask.name))
    for mask in masks:
        mask.replace(old / mask.name)
    # Files that continue the numbers are an earlier run's masks. All others are somebody's own.
    further = (old / mask_name(number) for number in itertools.count(len(masks) + 1))
    for path in reversed(list(itertools.takewhile(Path.exists, further))):
        path.unlink()
