from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from expedit_sam.batch import loading
from expedit_sam.batch.sources import list_items
from expedit_sam.errors import InputError
from tests.batch.conftest import picture
from tests.batch.test_sources import png, write_members


class Flaky:
    """Fails the first times that it is asked for bytes."""

    def __init__(self, times: int, error: Exception) -> None:
        self.times, self.error = times, error
        self.asked = 0
        self.waited: list[float] = []

    def __call__(self, item: dict[str, Any]) -> bytes:
        self.asked += 1
        if self.asked <= self.times:
            raise self.error
        return png(1)


def load(uri: str, flaky: Flaky, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(loading, "_read_bytes", flaky)
    monkeypatch.setattr(loading, "time", SimpleNamespace(sleep=flaky.waited.append))
    return loading.load_item({"uri": uri, "image": "a picture", "prompts": None})[0]


def test_a_network_that_fails_for_a_moment_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    flaky = Flaky(2, OSError("reset by peer"))
    assert (load("s3://bucket/x.png", flaky, monkeypatch) == picture(1)).all()
    assert flaky.waited == [1, 2]


@pytest.mark.parametrize(
    ("uri", "error", "asked"),
    [
        ("s3://bucket/x.png", OSError("reset by peer"), 3),
        ("s3://bucket/x.png", FileNotFoundError(), 1),
        ("s3://bucket/x.png", PermissionError(), 1),
        ("s3://bucket/x.parquet", InputError("row 1 of s3://bucket/x.parquet holds no bytes"), 1),
        ("/photos/x.png", OSError("bad sector"), 1),
    ],
)
def test_what_will_not_change_is_given_up(
    monkeypatch: pytest.MonkeyPatch, uri: str, error: Exception, asked: int
) -> None:
    flaky = Flaky(9, error)
    with pytest.raises(InputError, match=uri):
        load(uri, flaky, monkeypatch)
    assert flaky.asked == asked


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_nobody_waits_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "1.png")
    (item,) = list_items(str(tmp_path / "1.png")).to_pylist()
    for uri in (item["uri"], f"file://{item['uri']}"):
        with pytest.raises(InputError, match=r"1\.png is no file: name an image"):
            loading.load_item(item | {"uri": uri})
    with pytest.raises(InputError, match="no images in"):
        list_items(str(tmp_path))


def test_no_more_of_a_tar_is_read_than_the_image(tmp_path: Path) -> None:
    write_members(tmp_path / "d.tar", {"1.png": png(1), "2.png": png(2)})
    items = list_items(str(tmp_path / "d.tar")).to_pylist()
    assert [loading._read_bytes(item) for item in items] == [png(1), png(2)]


def test_a_row_of_a_path_without_bytes(pictures: Path) -> None:
    image = {"bytes": None, "path": str(pictures / "001.png")}  # Hugging Face's data sets
    assert (loading.load_row({"image": image}, "image")[0] == picture(1)).all()
