"""Data sets that tests write, and what is listed of them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from expedit_sam.batch.loading import load_item
from expedit_sam.batch.schema import ITEMS
from expedit_sam.batch.sources import list_items
from tests.batch.conftest import picture


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(number)).save(file, "PNG")
    return file.getvalue()


def listed(source: object, *more: object) -> list[dict]:
    """The items of a source, each with the picture that it really leads to."""
    table = list_items(str(source), *more)
    assert table.schema == ITEMS
    items = table.to_pylist()
    assert [item["index"] for item in items] == list(range(len(items)))
    return [item | {"pixels": load_item(item)[0]} for item in items]


def shows(items: list[dict], *numbers: int) -> None:
    assert len(items) == len(numbers)
    for item, number in zip(items, numbers, strict=True):
        np.testing.assert_array_equal(item["pixels"], picture(number))


def write_members(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))


def write_tar(path: Path, numbers: list[int]) -> None:
    members = {}
    for number in numbers:
        members[f"k{number}.json"] = json.dumps({"points": [[3, 4]]}).encode()
        members[f"k{number}.png"] = png(number)
        members[f"k{number}.cls"] = b"7"
    write_members(path, members)


def write_coco_json(path: Path, *ids: object) -> None:
    images = [{"id": number, "file_name": f"00{i}.png"} for i, number in enumerate(ids)]
    path.write_text(json.dumps({"images": images}))
