from __future__ import annotations

import json
import pickle
import tarfile
from functools import partial
from pathlib import Path, PureWindowsPath

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expedit_sam.batch.job import read_shard
from expedit_sam.batch.loading import _read_cell
from expedit_sam.batch.readers import _below
from expedit_sam.batch.sources import list_items
from expedit_sam.errors import InputError
from tests.batch.listing import listed, png, shows, write_coco_json, write_members, write_tar

BOX = {"points": [], "labels": [], "box": [1.0, 2.0, 31.0, 42.0]}
POINT = {"points": [[3.0, 4.0]], "labels": [1], "box": None}


def test_a_list_with_a_byte_order_mark(tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "list.txt").write_text("pictures/001.png\n", encoding="utf-8-sig")
    shows(listed(tmp_path / "list.txt"), 1)


def test_whole_paths_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expedit_sam.batch.readers.Path", PureWindowsPath)
    assert _below("C:/lists", r"D:\photos\1.jpg") == r"D:\photos\1.jpg"
    assert _below("C:/lists", "1.jpg") == "C:/lists/1.jpg"


def test_list(tmp_path: Path, pictures: Path) -> None:
    absolute = pictures / "000.png"
    (tmp_path / "list.txt").write_text(f"pictures/001.png\n\n{absolute}\npictures/001.png\n")
    items = listed(tmp_path / "list.txt")
    assert [item["image"] for item in items] == ["pictures/001.png", str(absolute)]
    shows(items, 1, 0)


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


@pytest.mark.parametrize("place", [0, 5, 200])
def test_a_tar_that_is_damaged_between_two_images(tmp_path: Path, place: int) -> None:
    write_members(tmp_path / "d.tar", {f"{number}.png": png(number) for number in range(3)})
    content = bytearray((tmp_path / "d.tar").read_bytes())
    with tarfile.open(tmp_path / "d.tar") as tar:
        header = tar.getmembers()[1].offset
    content[header + place] ^= 1
    for damaged in (content, content[: header + 300]):  # a bad header, one that is cut off
        (tmp_path / "d.tar").write_bytes(damaged)
        with pytest.raises(InputError, match=r"d\.tar is damaged, or no plain tar"):
            list_items(str(tmp_path / "d.tar"))


def test_a_tar_that_leaves_zeros_out(tmp_path: Path) -> None:
    header = tarfile.TarInfo("1.png")
    header.size = 0
    header.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1"}
    header.pax_headers |= {"GNU.sparse.map": "8192,0", "GNU.sparse.size": "8192"}
    with tarfile.open(tmp_path / "d.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(header)
    with pytest.raises(InputError, match=r"1\.png in .*d\.tar is sparse: pack without -S"):
        list_items(str(tmp_path / "d.tar"))


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
    pq.write_table(table, tmp_path / "bare.parquet", write_statistics=False)
    shows(listed(tmp_path / "bare.parquet"), 5, 6, 7)
    pq.write_table(pa.table({"bytes": [png(1)]}), tmp_path / "plain.parquet")
    shows(listed(tmp_path / "plain.parquet"), 1)


def test_what_ray_would_unpickle_is_not_read(tmp_path: Path) -> None:
    pytest.importorskip("ray.data")  # which registers its types for all that Arrow reads

    class Hostile:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "touched",)

    pickled = {b"ARROW:extension:name": b"ray.data.arrow_pickled_object"}
    pickled |= {b"ARROW:extension:metadata": b""}
    hostile = pa.field("x", pa.large_binary(), metadata=pickled)
    file = tmp_path / "d.parquet"
    for image, points in ((hostile, None), (pa.field("x", pa.binary()), hostile)):
        fields = {"image": image, "points": points} if points else {"image": image}
        schema = pa.schema([field.with_name(name) for name, field in fields.items()])
        values = [pa.array([pickle.dumps(Hostile())], field.type) for field in schema]
        pq.write_table(pa.Table.from_arrays(values, schema=schema), file)
        calls = [partial(list_items, str(file)), partial(read_shard, file, [*fields])]
        for call in calls if points else [*calls, partial(_read_cell, str(file), 0)]:
            with pytest.raises(InputError, match=r"d\.parquet holds pickled objects, which could"):
                call()
    assert not (tmp_path / "touched").exists()


def test_parquet_with_paths(tmp_path: Path, pictures: Path) -> None:
    table = pa.table({"path": ["001.png", "000.png"], "points": [[[3, 4]], None]})
    pq.write_table(table, tmp_path / "d.parquet")
    items = listed(tmp_path / "d.parquet", str(pictures))
    assert [item["prompts"] for item in items] == [[POINT], None]
    shows(items, 1, 0)


def test_parquet_as_hugging_face_writes_paths(tmp_path: Path, pictures: Path) -> None:
    """``Dataset.to_parquet`` leaves out the bytes of images that are files."""
    names = [str(pictures / "001.png"), "000.png"]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": None, "path": name} for name in names], kind)
    pq.write_table(pa.table({"image": images}), tmp_path / "d.parquet", row_group_size=1)
    items = listed(tmp_path / "d.parquet", str(pictures))
    assert [item["image"] for item in items] == names
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
        ({"image_id": 1, "bbox": [10**400, 2, 3, 4]}, "its bbox is no .*: mend or remove"),
        ({"image_id": 1, "keypoints": [3, 4]}, "its keypoints are no .*: mend or remove"),
        ({"image_id": 7, "bbox": [1, 2, 3, 4]}, "there is no image 7: mend or remove"),
        ({"image_id": "1", "bbox": [1, 2, 3, 4]}, "there is no image '1': mend or remove"),
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


def test_coco(tmp_path: Path, pictures: Path) -> None:
    names = {7: "000.png", 3: "001.png"}
    document = {
        "images": [{"id": i, "file_name": name} for i, name in names.items()],
        "annotations": [
            {"image_id": 3, "bbox": ["1", "2", "30", "40"]},  # as texts, which some tools write
            {"image_id": 3, "keypoints": [3, 4, 2, 0, 0, 0]},
            {"image_id": 3, "keypoints": [3, 4, 2], "bbox": [3, 4, 0, 0]},  # by Label Studio
        ],
    }
    (pictures / "coco.json").write_text(json.dumps(document))
    items = listed(pictures / "coco.json")
    assert [item["image_id"] for item in items] == [7, 3]
    assert [item["prompts"] for item in items] == [[], [BOX, POINT, POINT]]
    shows(items, 0, 1)
    (tmp_path / "elsewhere.json").write_text(json.dumps(document))
    shows(listed(tmp_path / "elsewhere.json", str(pictures)), 0, 1)


def test_no_chains_of_file_systems(tmp_path: Path) -> None:
    # With an older fsspec this one runs code that is in its json.
    name = "reference://1.png::https://example.org/1.json"
    (tmp_path / "d.txt").write_text(f"{name}\n")
    (tmp_path / "d.json").write_text(json.dumps({"images": [{"id": 1, "file_name": name}]}))
    pq.write_table(pa.table({"path": [name]}), tmp_path / "d.parquet")
    for suffix in ("txt", "json", "parquet"):
        with pytest.raises(InputError, match="is a chain of file systems: write a path"):
            list_items(str(tmp_path / f"d.{suffix}"))


@pytest.mark.parametrize("name", ["d.csv", "d.jsonl", "d.tar.gz", "d.TGZ"])
def test_other_kinds_of_data_sets_are_no_images(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("path\n1.png\n")
    with pytest.raises(InputError, match=f"{name} is of a kind that is not read: make it"):
        list_items(str(tmp_path / name))


def test_a_parquet_without_images_says_what_it_has(tmp_path: Path) -> None:
    pq.write_table(pa.table({"name": ["x"]}), tmp_path / "d.parquet")
    with pytest.raises(InputError, match="no column of images among name: call it one of image"):
        list_items(str(tmp_path / "d.parquet"))
