from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools.coco import COCO

from expedit_sam.errors import InputError

pytestmark = pytest.mark.usefixtures("tiny_vit_s")

# An untrained network finds nothing that it is sure of: take all that it finds.
UNTRAINED = ("--checkpoint", "random", "--workers", 0, "--threads", 1)
ALL = (*UNTRAINED, "--points-per-side", 2, "--pred-iou-thresh", -100)
ALL = (*ALL, "--stability-score-thresh", 0, "--min-mask-region-area", 0)


@pytest.fixture
def photos(tmp_path: Path, photo: np.ndarray) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a", "b", "c"):
        Image.fromarray(photo).save(folder / f"{name}.png")
    (folder / "b.png").write_bytes(b"no picture")
    return folder


def test_a_folder(run: Callable, photos: Path, photo: np.ndarray) -> None:
    result = run("batch", photos, *ALL, "--coco", "--images-per-shard", 2)
    assert result.exit_code == 0
    assert "images: 2 of 3; failed: 1; left: 0" in result.stdout
    assert result.stderr == ""
    rows = pq.read_table("out/shards").to_pylist()
    assert [row["image"] for row in rows] == ["a.png", "b.png", "c.png"]
    assert rows[0]["model"] == "vit_s"
    coco = COCO("out/coco.json")
    assert sorted(coco.imgs) == [1, 3]
    masks = [coco.annToMask(annotation) for annotation in coco.loadAnns(coco.getAnnIds(1))]
    assert [int(mask.sum()) for mask in masks] == [mask["area"] for mask in rows[0]["masks"]]
    assert masks[0].shape == photo.shape[:2]


def test_names_of_a_list_start_from_the_image_folder(run: Callable, photos: Path) -> None:
    Path("list.txt").write_text("a.png\nc.png\n")
    result = run("batch", "list.txt", *UNTRAINED, "--image-folder", photos)
    assert "images: 2 of 2; failed: 0" in result.stdout


def test_again_does_nothing(run: Callable, photos: Path) -> None:
    run("batch", photos, *ALL)
    before = Path("out/shards/000000.parquet").stat()
    assert run("batch", photos, *ALL).exit_code == 0
    assert Path("out/shards/000000.parquet").stat() == before


def test_failures_are_tried_again_if_asked(run: Callable, photos: Path, photo: np.ndarray) -> None:
    assert "--retry-failed tries them again" in run("batch", photos, *ALL).stdout
    Image.fromarray(photo).save(photos / "b.png")
    assert "failed: 1" in run("batch", photos, *ALL).stdout
    result = run("batch", photos, *ALL, "--retry-failed")
    assert "images: 3 of 3; failed: 0; left: 0" in result.stdout
    assert "--retry-failed" not in result.stdout
    assert [row["error"] for row in pq.read_table("out/shards").to_pylist()] == [None] * 3


def test_a_retry_leaves_what_went_well(run: Callable, photos: Path) -> None:
    run("batch", photos, *ALL, "--images-per-shard", 1)
    before = [Path(f"out/shards/00000{i}.parquet").stat().st_mtime_ns for i in range(3)]
    run("batch", photos, *ALL, "--images-per-shard", 1, "--retry-failed")
    after = [Path(f"out/shards/00000{i}.parquet").stat().st_mtime_ns for i in range(3)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]


def test_a_retry_keeps_masks_whose_images_are_away(
    run: Callable, photos: Path, photo: np.ndarray
) -> None:
    run("batch", photos, *ALL)
    before = pq.read_table("out/shards").to_pylist()
    photos.rename("elsewhere")
    assert "images: 2 of 3; failed: 1" in run("batch", photos, *ALL, "--retry-failed").stdout
    after = pq.read_table("out/shards").to_pylist()
    assert (after[0], after[2]) == (before[0], before[2])
    assert "does not exist" in after[1]["error"]
    Path("elsewhere").rename(photos)
    Image.fromarray(photo).save(photos / "b.png")
    run("batch", photos, *ALL, "--retry-failed")
    run("batch", photos, *ALL, "--out", "undisturbed")
    shard = "shards/000000.parquet"
    assert Path("out", shard).read_bytes() == Path("undisturbed", shard).read_bytes()


def test_the_number_of_threads_stays(run: Callable, photos: Path) -> None:
    run("batch", photos, *ALL)
    assert run("batch", photos, *ALL[:4], *ALL[6:]).exit_code == 0
    assert json.loads(Path("out/job.json").read_text())["threads"] == 1


def test_precision_is_another_job(run: Callable, only_error: Callable, photos: Path) -> None:
    assert run("batch", photos, *ALL, "--precision", "bfloat16").exit_code == 0
    assert pq.read_table("out/shards").to_pylist()[0]["speed"] == "exact in bfloat16"
    assert "--out" in only_error(run("batch", photos, *ALL))


def test_int8_keeps_workers_on_the_cpu(
    run: Callable, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = []

    def start(*arguments: Any, device: str, **others: Any) -> None:
        places.append(device)
        raise InputError("enough")

    monkeypatch.setattr("expedit_sam.batch.start.start", start)
    monkeypatch.setattr("expedit_sam.build.quantize", lambda encoder: None)
    asked = ("--precision", "int8", "--workers", 1)
    assert run("batch", photos, *UNTRAINED, *asked).stderr == "error: enough\n"
    assert places == ["cpu"]


def test_int8_is_refused_to_workers_on_a_gpu(
    run: Callable, photos: Path, only_error: Callable
) -> None:
    asked = ("--precision", "int8", "--workers", 1, "--device", "cuda")
    assert "'cuda'" in only_error(run("batch", photos, *UNTRAINED, *asked))


def test_prompts_of_the_source_are_asked(run: Callable, photos: Path) -> None:
    document = {
        "images": [{"id": 5, "file_name": "a.png"}, {"id": 6, "file_name": "c.png"}],
        "annotations": [{"image_id": 5, "bbox": [10, 10, 50, 60]}],
    }
    (photos / "coco.json").write_text(json.dumps(document))
    assert run("batch", photos / "coco.json", *UNTRAINED, "--coco").exit_code == 0
    rows = pq.read_table("out/shards").to_pylist()
    assert [row["image_id"] for row in rows] == [5, 6]
    assert rows[0]["masks"][0]["prompt"]["box"] == [10, 10, 60, 70]
    assert rows[1]["masks"] == []
    (annotation,) = json.loads(Path("out/coco.json").read_text())["annotations"]
    assert None not in annotation.values()
    run("batch", photos / "coco.json", *ALL, "--everything", "--out", "all")
    assert all(row["masks"] for row in pq.read_table("all/shards").to_pylist())


def test_dry_run_writes_nothing(run: Callable, photos: Path) -> None:
    result = run("batch", photos, *ALL, "--dry-run")
    assert result.exit_code == 0
    assert result.stdout.startswith("images: 3; one worker: about ")
    assert "1 of them unreadable" in result.stdout
    assert not Path("out").exists()


def test_limit_and_shares(run: Callable, photos: Path) -> None:
    more = (*ALL, "--limit", 2, "--images-per-shard", 1)
    assert "left: 1" in run("batch", photos, *more, "--shard", "2/2").stdout
    assert "left: 0" in run("batch", photos, *more, "--shard", "1/2").stdout
    assert pq.read_table("out/shards").num_rows == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["missing"], "missing does not exist"),
        (["photos", "--shard", "3/2"], "--shard '3/2' is not I/N with I from 1 to N"),
        (["photos", "--shard", "x"], "--shard 'x' is not I/N"),
        (["photos", "--speed", "warp"], "warp"),
        (["photos", "--address", "here:1"], "--workers 0 does without Ray: leave out --address"),
        (["photos", "--out", "photos/a.png"], f"cannot write to {Path('photos/a.png')}"),
        (["photos", "--images-per-shard", 7], "was begun with images_per_shard 1, not 7"),
    ],
)
def test_faults(
    run: Callable, only_error: Callable, photos: Path, arguments: list, says: str
) -> None:
    if "--images-per-shard" in arguments:
        run("batch", photos.name, *UNTRAINED, "--limit", 1, "--images-per-shard", 1)
        arguments = [*arguments, "--limit", 1]
    before = sorted(Path().rglob("*"))
    assert says in only_error(run("batch", *arguments, *UNTRAINED))
    assert [path for path in Path().rglob("*.parquet") if path not in before] == []


def test_a_full_disk(
    run: Callable, only_error: Callable, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("expedit_sam.batch.files.os.fsync", full)
    line = only_error(run("batch", photos, *ALL))
    assert "(No space left on device): what is done is kept; make room" in line
    assert [path.name for path in Path("out").iterdir() if not path.name.startswith(".")] == []


def test_without_ray(
    run: Callable, only_error: Callable, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    line = only_error(run("batch", photos, *ALL, "--workers", 2))
    assert line == "error: --workers needs Ray: pip install 'expedit-sam[ray]'"


@pytest.mark.parametrize(
    ("installed", "options", "workers"),
    [(True, (), None), (False, (), 0), (False, ("--address", "here:1"), None)],
)
def test_ray_is_used_where_it_is_or_is_asked_for(
    run: Callable,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    installed: bool,
    options: tuple[str, ...],
    workers: int | None,
) -> None:
    given: dict = {}

    def start(*arguments: Any, **others: Any) -> None:
        given.update(others)
        raise InputError("enough")

    monkeypatch.setattr("expedit_sam.batch.start.start", start)
    monkeypatch.setattr("expedit_sam.cli.batch.find_spec", lambda name: installed or None)
    assert run("batch", photos, *UNTRAINED[:2], *options).stderr == "error: enough\n"
    assert given["workers"] == workers
