from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path, PureWindowsPath

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from expedit_sam.batch.loading import load_item
from expedit_sam.batch.schema import ITEMS
from expedit_sam.batch.sources import _below, _braces, list_items
from expedit_sam.errors import InputError
from tests.batch.conftest import picture, write_pictures

BOX = {"points": [], "labels": [], "box": [1.0, 2.0, 31.0, 42.0]}
POINT = {"points": [[3.0, 4.0]], "labels": [1], "box": None}


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


def test_a_list_with_a_byte_order_mark(tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "list.txt").write_text("pictures/001.png\n", encoding="utf-8-sig")
    shows(listed(tmp_path / "list.txt"), 1)


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
    monkeypatch.setattr("expedit_sam.batch.sources._TOGETHER", 2)
    items = listed(write_pictures(tmp_path / "a", 5))
    assert [item["image_id"] for item in items] == [1, 2, 3, 4, 5]
    shows(items, 0, 1, 2, 3, 4)


@pytest.mark.parametrize("name", ["a::b", "q{0..1}"])
def test_names_of_local_files_are_taken_as_they_are(tmp_path: Path, name: str) -> None:
    folder = write_pictures(tmp_path / name, 2)
    (folder / f"{name}.txt").write_text("001.png\n")
    pq.write_table(pa.table({"bytes": [png(3)]}), folder / f"{name}.parquet")
    write_tar(folder / f"{name}.tar", [4])
    write_coco_json(folder / f"{name}.json", 1)
    shows(listed(folder), 0, 1)
    for suffix, number in {"txt": 1, "parquet": 3, "tar": 4, "json": 0}.items():
        shows(listed(folder / f"{name}.{suffix}"), number)


def test_whole_paths_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expedit_sam.batch.sources.Path", PureWindowsPath)
    assert _below("C:/lists", r"D:\photos\1.jpg") == r"D:\photos\1.jpg"
    assert _below("C:/lists", "1.jpg") == "C:/lists/1.jpg"


def test_list(tmp_path: Path, pictures: Path) -> None:
    absolute = pictures / "000.png"
    (tmp_path / "list.txt").write_text(f"pictures/001.png\n\n{absolute}\npictures/001.png\n")
    items = listed(tmp_path / "list.txt")
    assert [item["image"] for item in items] == ["pictures/001.png", str(absolute)]
    shows(items, 1, 0)


def test_glob(pictures: Path) -> None:
    items = listed(pictures / "*[01].png")
    assert [item["image"] for item in items] == ["000.png", "001.png"]
    shows(items, 0, 1)


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


def test_webdataset(tmp_path: Path) -> None:
    write_tar(tmp_path / "d-00.tar", [4, 1])
    write_tar(tmp_path / "d-01.tar", [3])
    for source in ("d-{00..01}.tar", "d-*.tar"):
        items = listed(tmp_path / source)
        assert [i["image"] for i in items] == [
            "d-00.tar/k4.png",
            "d-00.tar/k1.png",
            "d-01.tar/k3.png",
        ]
        assert items[0]["prompts"] == [POINT]
        shows(items, 4, 1, 3)


def test_webdataset_with_two_images_of_a_key(tmp_path: Path) -> None:
    prompts = json.dumps({"points": [[3, 4]]}).encode()
    write_members(tmp_path / "d.tar", {"k.bmp": png(1), "k.json": prompts, "k.png": png(2)})
    items = listed(tmp_path / "d.tar")
    assert [item["image"] for item in items] == ["d.tar/k.bmp", "d.tar/k.png"]
    assert [item["prompts"] for item in items] == [[POINT], [POINT]]
    shows(items, 1, 2)


def test_what_a_mac_adds_to_a_tar_is_passed_over(tmp_path: Path) -> None:
    added = {f"a/{name}": b"\x00\x05\x16\x07" for name in ("._k.png", "._k.json", ".DS_Store")}
    write_members(tmp_path / "d.tar", added | {"a/k.png": png(1)})
    shows(listed(tmp_path / "d.tar"), 1)


@pytest.mark.parametrize(
    ("described", "says"),
    [(b"{", r"k\.json in .*d\.tar is no json"), (b'{"boxes": [[1]]}', r"k\.json in .*d\.tar: box")],
)
def test_a_faulty_member_is_named(tmp_path: Path, described: bytes, says: str) -> None:
    write_members(tmp_path / "d.tar", {"k.png": png(1), "k.json": described})
    with pytest.raises(InputError, match=says):
        list_items(str(tmp_path / "d.tar"))


def test_faulty_prompts_of_a_row_are_named(tmp_path: Path) -> None:
    table = pa.table({"path": ["a.png", "b.png"], "boxes": [[], [[1]]]})
    pq.write_table(table, tmp_path / "d.parquet")
    with pytest.raises(InputError, match=r"row 1 of .*d\.parquet: box"):
        list_items(str(tmp_path / "d.parquet"))


def test_parquet_with_bytes(tmp_path: Path) -> None:
    """In row groups, of which each is read alone."""
    table = pa.table(
        {
            "image": [{"bytes": png(n), "path": None} for n in (5, 6, 7)],
            "boxes": [[[1, 2, 31, 42]], [], None],
        }
    )
    pq.write_table(table, tmp_path / "d.parquet", row_group_size=2)
    items = listed(tmp_path / "d.parquet")
    assert [item["image"] for item in items] == ["d.parquet#0", "d.parquet#1", "d.parquet#2"]
    assert [item["prompts"] for item in items] == [[BOX], [], None]
    shows(items, 5, 6, 7)
    pq.write_table(pa.table({"bytes": [png(1)]}), tmp_path / "plain.parquet")
    shows(listed(tmp_path / "plain.parquet"), 1)


def test_parquet_with_paths(tmp_path: Path, pictures: Path) -> None:
    table = pa.table({"path": ["001.png", "000.png"], "points": [[[3, 4]], None]})
    pq.write_table(table, tmp_path / "d.parquet")
    items = listed(tmp_path / "d.parquet", str(pictures))
    assert [item["prompts"] for item in items] == [[POINT], None]
    shows(items, 1, 0)


@pytest.mark.parametrize(
    "kind",
    [
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.int32(), pa.large_string()),
    ],
    ids=str,
)
def test_parquet_with_paths_as_pandas_writes_them(
    tmp_path: Path, pictures: Path, kind: pa.DataType
) -> None:
    paths = pa.array(["001.png", "000.png"], kind)
    pq.write_table(pa.table({"path": paths}), tmp_path / "d.parquet")
    shows(listed(tmp_path / "d.parquet", str(pictures)), 1, 0)


def write_coco_json(path: Path, *ids: object) -> None:
    images = [{"id": number, "file_name": f"00{i}.png"} for i, number in enumerate(ids)]
    path.write_text(json.dumps({"images": images}))


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"annotations": []},
        {"annotations": [{"image_id": 1, "segmentation": [[1, 2, 3, 4, 5, 6]]}]},
    ],
)
def test_coco_without_prompts_asks_for_everything(tmp_path: Path, more: dict) -> None:
    images = [{"id": 1, "file_name": "000.png"}]
    (tmp_path / "d.json").write_text(json.dumps({"images": images} | more))
    (item,) = list_items(str(tmp_path / "d.json")).to_pylist()
    assert item["prompts"] is None


@pytest.mark.parametrize(
    ("annotation", "says"),
    [
        ({"image_id": 1, "bbox": []}, r"its bbox is no \[x, y, width, height\]: mend or remove"),
        ({"image_id": 1, "keypoints": [3, 4]}, "its keypoints are no .*: mend or remove"),
        ({"image_id": 7, "bbox": [1, 2, 3, 4]}, "there is no image 7: mend or remove"),
        ({"bbox": [1, 2, 3, 4]}, "there is no image None: mend or remove"),
    ],
)
def test_a_faulty_annotation_is_named(tmp_path: Path, annotation: dict, says: str) -> None:
    images = [{"id": 1, "file_name": "000.png"}]
    document = {"images": images, "annotations": [{"id": 5} | annotation]}
    (tmp_path / "d.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=rf"annotation 5 in .*d\.json: {says}"):
        list_items(str(tmp_path / "d.json"))


@pytest.mark.parametrize("number", ["7", 2**64, 1.5, True, None])
def test_coco_ids_that_are_none(tmp_path: Path, number: object) -> None:
    write_coco_json(tmp_path / "d.json", 1, number)
    with pytest.raises(InputError, match=r"image id .* in .*d\.json is no whole number"):
        list_items(str(tmp_path / "d.json"))


def test_coco_ids_that_are_there_twice(tmp_path: Path) -> None:
    write_coco_json(tmp_path / "a.json", 1, 2)
    write_coco_json(tmp_path / "b.json", 2, 3)
    with pytest.raises(InputError, match=r"\*\.json has image id 2 more than once: give one json"):
        list_items(str(tmp_path / "*.json"))


def test_a_name_that_is_not_text(tmp_path: Path) -> None:
    write_members(tmp_path / "d.tar", {"k\udce9.png": png(1)})
    with pytest.raises(InputError, match=r"the name d\.tar/k\\udce9\.png is not in UTF-8: rename"):
        list_items(str(tmp_path / "d.tar"))


def test_coco(tmp_path: Path, pictures: Path) -> None:
    names = {7: "000.png", 3: "001.png"}
    document = {
        "images": [{"id": i, "file_name": name} for i, name in names.items()],
        "annotations": [
            {"image_id": 3, "bbox": [1, 2, 30, 40]},
            {"image_id": 3, "keypoints": [3, 4, 2, 0, 0, 0]},
        ],
    }
    (pictures / "coco.json").write_text(json.dumps(document))
    items = listed(pictures / "coco.json")
    assert [item["image_id"] for item in items] == [7, 3]
    assert [item["prompts"] for item in items] == [[], [BOX, POINT]]
    shows(items, 0, 1)
    (tmp_path / "elsewhere.json").write_text(json.dumps(document))
    shows(listed(tmp_path / "elsewhere.json", str(pictures)), 0, 1)


def test_other_file_systems() -> None:
    memory = fsspec.filesystem("memory")
    for number in (1, 2):
        memory.pipe(f"/bucket/d/{number}.png", png(number))
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


def test_a_parquet_without_images_says_what_it_has(tmp_path: Path) -> None:
    pq.write_table(pa.table({"name": ["x"]}), tmp_path / "d.parquet")
    with pytest.raises(InputError, match="no column of images among name: call it one of image"):
        list_items(str(tmp_path / "d.parquet"))


@given(st.integers(0, 999), st.integers(0, 30), st.integers(0, 2))
def test_braces(first: int, more: int, zeros: int) -> None:
    start = "0" * zeros + str(first)
    names = _braces(f"a-{{{start}..{first + more}}}.tar")
    assert len(set(names)) == more + 1
    assert names[0] == f"a-{start}.tar"
    assert [int(name[2:-4]) for name in names] == list(range(first, first + more + 1))
