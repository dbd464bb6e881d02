"""What was measured so far, in a file that grows by one line an image."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from expedit_sam.errors import InputError

# Of one image: prompt, metric, values (one a region, or one for the whole image).
Figures = dict[str, dict[str, list[float]]]


class Records:
    """The measurements of one contestant, image by image, kept in a file from the first on.

    The file's first line, a hash of which is in its name, says what they depend on: measurements
    that depend on anything else go into another file.

    Arguments:
        folder: where files of records lie; made if it is missing.
        name: what the file's name begins with.
        identity: all that the measurements depend on.
    """

    def __init__(self, folder: Path, name: str, identity: dict[str, Any]) -> None:
        header = json.dumps(identity, sort_keys=True)
        digest = hashlib.sha256(header.encode()).hexdigest()[:12]
        self.file = folder / f"{re.sub(r'[^A-Za-z0-9=.-]+', '_', name)}-{digest}.jsonl"
        self.images: dict[str, Figures] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if not self._read():
            self._append(header)

    def add(self, image: str, figures: Figures) -> None:
        """Keep the figures of an image."""
        rounded = {
            kind: {name: [round(value, 5) for value in values] for name, values in metrics.items()}
            for kind, metrics in figures.items()
        }
        self._append(json.dumps({"image": image, "figures": rounded}))
        self.images[image] = rounded

    def _append(self, line: str) -> None:
        try:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise InputError(
                f"cannot write {self.file} ({error.strerror or error}): what is done is kept; "
                "make room, then give the same command again"
            ) from error

    def _read(self) -> bool:
        """Read the records; false where not even the first line is there."""
        content = self.file.read_bytes() if self.file.exists() else b""
        whole = content.rfind(b"\n") + 1
        if whole < len(content):  # a run was stopped while it wrote the last line
            with self.file.open("r+b") as file:
                file.truncate(whole)
        try:
            for line in content[:whole].decode("utf-8").splitlines()[1:]:
                record = json.loads(line)
                self.images[record["image"]] = record["figures"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.file} is damaged: delete it, and begin anew") from error
        return whole > 0
