"""Label files of ours, known by a list beside them: YOLO and LabelMe leave no room for a hash."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

LABELS_WRITTEN = ".expedit-sam.labels"  # a line a file: its hash, a space, whose labels it has


def labelled_image(path: Path) -> str | None:
    """The image that a label file was written for, seen from its folder; "" if that is not known.

    None if the file is not as we wrote it.
    """
    known, hashed = path.with_name(LABELS_WRITTEN), _hash(path)
    # Not split into lines: with those of many images that takes longer than writing labels.
    ours = known.read_bytes() if known.exists() else b""
    start = ours.rfind(hashed)
    if start < 0:
        return None
    start += len(hashed)
    end = ours.find(b"\n", start)
    return os.fsdecode(ours[start : end if end >= 0 else None].removeprefix(b" "))


def remember_labels(path: Path, folder: Path, image: str) -> None:
    """Note that a label file, which will move to a folder, is ours and has an image's labels."""
    line = b"%s %s" % (_hash(path), os.fsencode(image).replace(b"\n", b"?"))
    with (folder / LABELS_WRITTEN).open("ab") as file:
        file.write(b"\n" + line)  # begins a line: a full disk may have cut the last one short


def _hash(path: Path) -> bytes:
    """Hash of a file's name and contents, in hexadecimal."""
    return hashlib.sha256(os.fsencode(path.name) + path.read_bytes()).hexdigest().encode()
