from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expedit_sam.batch.loading import load_item
from expedit_sam.batch.sources import _braces, list_items
from expedit_sam.errors import InputError
from tests.batch.conftest import picture, write_pictures
from tests.batch.listing import listed, png, shows, write_coco_json, write_members, write_tar


def test_folder_tree(tmp_path: Path) -> None:
    write_pictures(tmp_path / "a", 1)
    write_pictures(tmp_path / "a" / "deeper", 2)
    write_pictures(tmp_path / "a" / ".hidden", 1)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    items = listed(tmp_path / "a")
    assert [item["image"] for item in items] == ["000.png", "deeper/000.png", "deeper/001.png"]
    assert [item["image_id"] for item in items] == [1, 2, 3]
    assert items[0]["prompts"] is None
    shows(items, 0, 0, 1)


def test_folders_are_named_from_where_they_part(tmp_path: Path) -> None:
    for number in (0, 1):
        write_pictures(tmp_path / f"d-{number}", 1)
    items = listed(tmp_path / "d-{0..1}")
    assert [item["image"] for item in items] == ["d-0/000.png", "d-1/000.png"]


def test_a_locked_folder_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refusing(path: str) -> object:
        if Path(path).name in ("private", ".trash"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    for name in ("private", ".trash", "a"):
        write_pictures(tmp_path / name, 1)
    monkeypatch.setattr(os, "scandir", refusing)
    items = list_items(str(tmp_path)).to_pylist()
    assert [item["image"] for item in items] == ["a/000.png", "private"]
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(Path, "open", lambda path, mode: refusing(str(path)))
    with pytest.raises(InputError, match=r"private cannot be opened: allow reading it"):
        load_item(items[1])


@pytest.mark.skipif(sys.platform == "win32", reason="needs symbolic links")
def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "source", 1)
    (source / "again.png").symlink_to("000.png")
    (source / "more").symlink_to(write_pictures(tmp_path / "more", 1))
    (source / "round").symlink_to(source)
    items = listed(source)
    assert [item["image"] for item in items] == ["000.png", "again.png", "more/000.png"]


def test_one_image(pictures: Path) -> None:
    shows(listed(pictures / "001.png"), 1)


def test_relative_images_are_read_from_another_folder(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "list.txt").write_text("001.png\n")
    monkeypatch.chdir(tmp_path)
    items = list_items("list.txt", "pictures").to_pylist()
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(load_item(items[0])[0], picture(1))


def test_relative_paths(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pictures.parent)
    shows(listed("pictures/00[01].png"), 0, 1)


def test_limit(pictures: Path) -> None:
    shows(listed(pictures, None, 2), 0, 1)


def test_no_more_files_are_read_than_the_limit_needs(tmp_path: Path) -> None:
    write_tar(tmp_path / "d-0.tar", [4])
    (tmp_path / "d-1.tar").write_bytes(b"no tar")
    shows(listed(tmp_path / "d-{0..1}.tar", None, 1), 4)


def test_a_long_list_is_numbered_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expedit_sam.batch.sources._ITEMS_PER_BATCH", 2)
    items = listed(write_pictures(tmp_path / "a", 5))
    assert [item["image_id"] for item in items] == [1, 2, 3, 4, 5]
    shows(items, 0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            "a::b",
            marks=pytest.mark.skipif(sys.platform == "win32", reason="names there hold no colon"),
        ),
        "q{0..1}",
    ],
)
def test_names_of_local_files_are_taken_as_they_are(tmp_path: Path, name: str) -> None:
    folder = write_pictures(tmp_path / name, 2)
    (folder / f"{name}.txt").write_text("001.png\n")
    pq.write_table(pa.table({"bytes": [png(3)]}), folder / f"{name}.parquet")
    write_tar(folder / f"{name}.tar", [4])
    write_coco_json(folder / f"{name}.json", 1)
    shows(listed(folder), 0, 1)
    for suffix, number in {"txt": 1, "parquet": 3, "tar": 4, "json": 0}.items():
        shows(listed(folder / f"{name}.{suffix}"), number)


def test_glob(pictures: Path) -> None:
    (pictures / "folder1.png").mkdir()
    for name in ("._001.png", ".hidden/001.png"):  # the first as a Mac leaves them
        (pictures / name).parent.mkdir(exist_ok=True)
        (pictures / name).touch()
    for pattern in ("*[01].png", "**/*[01].png"):
        items = listed(pictures / pattern)
        assert [item["image"] for item in items] == ["000.png", "001.png"]
        shows(items, 0, 1)


def test_coco_ids_that_are_there_twice(tmp_path: Path) -> None:
    write_coco_json(tmp_path / "a.json", 1, 2)
    write_coco_json(tmp_path / "b.json", 2, 3)
    with pytest.raises(InputError, match=r"\*\.json has image id 2 more than once: give one json"):
        list_items(str(tmp_path / "*.json"))


def test_a_name_that_is_not_text(tmp_path: Path) -> None:
    write_members(tmp_path / "d.tar", {"k\udce9.png": png(1)})
    with pytest.raises(InputError, match=r"the name d\.tar/k\\udce9\.png is not in UTF-8: rename"):
        list_items(str(tmp_path / "d.tar"))


def test_other_file_systems() -> None:
    memory = fsspec.filesystem("memory")
    for number in (1, 2):
        memory.pipe(f"/bucket/d/{number}.png", png(number))
    for name in ("notes.txt", ".3.png", ".hidden/3.png"):
        memory.pipe(f"/bucket/d/{name}", png(3))
    memory.pipe("/bucket/list.txt", b"d/2.png\n")
    try:
        items = listed("memory://bucket/d")
        assert [item["image"] for item in items] == ["1.png", "2.png"]
        shows(items, 1, 2)
        shows(listed("memory://bucket/d/*.png"), 1, 2)
        shows(listed("memory://bucket/list.txt"), 2)
    finally:
        memory.rm("/bucket", recursive=True)


def test_file_urls(pictures: Path) -> None:
    shows(listed(f"file://{pictures}/001.png"), 1)


def write(name: str, contents: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(contents) and None


@pytest.mark.parametrize(
    ("prepare", "source", "says"),
    [
        (None, "missing", "missing does not exist: check the path"),
        (None, "missing/*.jpg", "no images in"),
        (None, "", "no images in"),
        (None, "{2..1}.jpg", "no images in"),
        (write("empty.txt", b"\n"), "empty.txt", "no images in"),
        (write("d.txt", b"\xff\xfea\0"), "d.txt", "is not in UTF-8: save the list in that"),
        (write("d.json", b"[]"), "d.json", "is not in COCO's format"),
        (write("d.json", b"{"), "d.json", "is not in COCO's format"),
        (write("d.tar", b"x" * 600), "d.tar", "is damaged, or no plain tar"),
        (write("d.parquet", b"PAR1"), "d.parquet", "is no Parquet file that can be read"),
        (None, "nothing://bucket/x", "nothing://bucket/x cannot be read: Protocol not known"),
    ],
)
def test_faults_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    prepare: Callable[[Path], None] | None,
    source: str,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if prepare:
        prepare(tmp_path)
    with pytest.raises(InputError) as fault:
        list_items(source)
    assert says in str(fault.value)
    assert "\n" not in str(fault.value)


def test_a_missing_plugin_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("expedit_sam.batch.sources.url_to_fs", missing)
    with pytest.raises(InputError, match="s3:// needs s3fs: pip install s3fs"):
        list_items("s3://bucket/d")


@given(st.integers(0, 999), st.integers(0, 30), st.integers(0, 2))
def test_braces(first: int, more: int, zeros: int) -> None:
    start = "0" * zeros + str(first)
    names = _braces(f"a-{{{start}..{first + more}}}.tar")
    assert len(set(names)) == more + 1
    assert names[0] == f"a-{start}.tar"
    assert [int(name[2:-4]) for name in names] == list(range(first, first + more + 1))
