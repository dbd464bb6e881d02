from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from safetensors.torch import save_file

from expedit_sam.everything import SamAutomaticMaskGenerator
from expedit_sam.everything.recommended import RECOMMENDED
from expedit_sam.model.architectures import ARCHITECTURES, new_sam

# An untrained network finds nothing that it is sure of: take all that it finds.
UNTRAINED = ("--checkpoint", "random", "--points-per-side", 2, "--min-mask-region-area", 0)
ALL = (*UNTRAINED, "--pred-iou-thresh", -100, "--stability-score-thresh", 0)

pytestmark = pytest.mark.usefixtures("tiny_vit_s")


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def loaded(path: Path) -> tuple[dict, list[np.ndarray]]:
    """The image of a COCO json, and its masks."""
    coco = COCO(path)
    (image,) = coco.dataset["images"]
    return image, [coco.annToMask(annotation) for annotation in coco.dataset["annotations"]]


def test_masks_of_a_photo(run: Callable, photo_file: Path, photo: np.ndarray) -> None:
    result = run("masks", photo_file, "--out", "results", *ALL)
    assert result.exit_code == 0
    out = photo_file.parent / "results"
    image, masks = loaded(out / "photo.json")
    assert image["file_name"] == photo_file.as_posix()
    assert len(masks) > 0
    assert f"masks: {len(masks)}; images: 1 of 1" in result.stdout
    assert "good enough" not in result.stdout
    assert f"{photo_file}: {len(masks)} mask" in result.stderr
    pngs = [f"photo_masks/{number:03d}.png" for number in range(1, len(masks) + 1)]
    assert files(out) == ["photo.json", "photo_masks", *pngs, "photo_overlay.jpg"]
    for mask, png in zip(masks, pngs, strict=True):
        assert mask.shape == photo.shape[:2]
        np.testing.assert_array_equal(np.asarray(Image.open(out / png)), 255 * mask)
    with Image.open(out / "photo_overlay.jpg") as overlay:
        assert overlay.size == (photo.shape[1], photo.shape[0])


def test_masks_are_those_of_the_generator(
    run: Callable, photo_file: Path, photo: np.ndarray
) -> None:
    from expedit_sam import build_sam

    run("masks", photo_file, *ALL, "--points-per-batch", 3, "--speed", "fast")
    sam = build_sam("vit_s", checkpoint="random", hourglass="fast")
    expected = SamAutomaticMaskGenerator(
        sam, 2, pred_iou_thresh=-100, stability_score_thresh=0, points_per_batch=3
    ).generate(photo)
    annotations = json.loads(Path("out/photo.json").read_text())["annotations"]
    assert [a["predicted_iou"] for a in annotations] == [r["predicted_iou"] for r in expected]
    assert [a["point_coords"] for a in annotations] == [r["point_coords"] for r in expected]
    for mask, record in zip(loaded(Path("out/photo.json"))[1], expected, strict=True):
        np.testing.assert_array_equal(mask, record["segmentation"])


def test_no_masks_are_a_result(run: Callable, photo_file: Path) -> None:
    result = run("masks", photo_file, *UNTRAINED, "--pred-iou-thresh", 100)
    assert result.exit_code == 0
    assert loaded(Path("out/photo.json"))[1] == []
    assert "no mask was good enough: lower --pred-iou-thresh" in result.stdout


def test_only_what_is_asked_for(run: Callable, photo_file: Path) -> None:
    assert run("masks", photo_file, *ALL, "--format", "coco", "--no-overlay").exit_code == 0
    assert files(Path("out")) == ["photo.json"]


def test_precision(run: Callable, photo_file: Path) -> None:
    assert run("masks", photo_file, *ALL, "--precision", "bfloat16").exit_code == 0
    assert "photo.json" in files(Path("out"))


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict:
    """The arguments that the generator is given."""
    given: dict = {}

    class Spy(SamAutomaticMaskGenerator):
        def __init__(self, model: object, **arguments: object) -> None:
            given.update(arguments)
            super().__init__(model, **arguments | {"points_per_side": 1})

    monkeypatch.setattr("expedit_sam.everything.SamAutomaticMaskGenerator", Spy)
    return given


def test_every_model_has_its_defaults(run: Callable, photo_file: Path, given: dict) -> None:
    assert RECOMMENDED.keys() == ARCHITECTURES.keys()
    run("masks", photo_file, "--checkpoint", "random", "--pred-iou-thresh", 0.25)
    assert given.items() >= (RECOMMENDED["vit_s"] | {"pred_iou_thresh": 0.25}).items()


def test_options_reach_the_generator(run: Callable, photo_file: Path, given: dict) -> None:
    options = {
        "points_per_side": 5,
        "points_per_batch": 7,
        "pred_iou_thresh": 0.25,
        "stability_score_thresh": 0.5,
        "min_mask_region_area": 9,
        "crop_n_layers": 1,
        "skip_covered": 0.125,
    }
    texts = [(f"--{name.replace('_', '-')}", value) for name, value in options.items()]
    run("masks", photo_file, "--checkpoint", "random", *(part for text in texts for part in text))
    assert given == RECOMMENDED["vit_s"] | options | {"output_mode": "coco_rle"}


# --- images of every kind ------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_thin_images(run: Callable, tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, "teal").save(tmp_path / "thin.png")
    assert run("masks", "thin.png", *ALL).exit_code == 0
    image, masks = loaded(tmp_path / "out" / "thin.json")
    assert (image["width"], image["height"]) == size
    assert all(mask.shape == size[::-1] for mask in masks)


@pytest.mark.parametrize(
    ("name", "mode"),
    [("grey.png", "I;16"), ("print.jpg", "CMYK"), ("clear.png", "RGBA"), ("few.png", "P")],
)
def test_pixels_of_every_kind(
    run: Callable, tmp_path: Path, photo: np.ndarray, name: str, mode: str
) -> None:
    image = Image.fromarray(photo)
    if mode == "I;16":
        image = Image.fromarray(photo[..., 0].astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    image.save(tmp_path / name)
    with Image.open(tmp_path / name) as stored:
        assert stored.mode == mode
    assert run("masks", name, *ALL).exit_code == 0
    assert len(loaded(tmp_path / "out" / f"{Path(name).stem}.json")[1]) > 0


def test_rotated_photo_has_masks_as_a_person_sees_it(
    run: Callable, tmp_path: Path, photo: np.ndarray
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(photo).save(tmp_path / "turned.jpg", exif=exif)
    assert run("masks", "turned.jpg", *ALL).exit_code == 0
    height, width = photo.shape[:2]
    image, masks = loaded(tmp_path / "out" / "turned.json")
    assert (image["height"], image["width"]) == (width, height)
    assert {mask.shape for mask in masks} == {(width, height)}
    with Image.open(tmp_path / "out" / "turned_overlay.jpg") as overlay:
        assert overlay.size == (height, width)


# --- bad images ----------------------------------------------------------------------------


def test_missing_image(run: Callable, only_error: Callable) -> None:
    assert "missing.jpg does not exist" in only_error(run("masks", "missing.jpg", *ALL))
    assert files(Path()) == []


def test_nothing_to_segment(run: Callable, tmp_path: Path, only_error: Callable) -> None:
    (tmp_path / "empty").mkdir()
    assert "no images in empty" in only_error(run("masks", "empty", *ALL))


def spoil(path: Path, how: str) -> None:
    if how == "text renamed":
        path.write_text("not an image")
    elif how == "truncated":
        whole = path.with_suffix(".whole.jpg")
        Image.effect_noise((64, 64), 50).save(whole)
        path.write_bytes(whole.read_bytes()[:600])
        whole.unlink()
    else:
        path.touch()


@pytest.mark.parametrize("how", ["text renamed", "truncated", "empty"])
def test_a_bad_image(run: Callable, tmp_path: Path, how: str) -> None:
    spoil(tmp_path / "bad.jpg", how)
    result = run("masks", "bad.jpg", *ALL)
    assert result.exit_code == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "bad.jpg" in errors[0]
    assert files(tmp_path / "out") == []


def test_a_bad_image_among_good_ones(run: Callable, tmp_path: Path, photo_file: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "c.png"):
        shutil.copy(photo_file, folder / name)
    spoil(folder / "b.jpg", "truncated")
    result = run("masks", "photos", *ALL, "--format", "coco", "--no-overlay")
    assert result.exit_code == 2
    assert files(tmp_path / "out") == ["a.json", "c.json"]
    assert "images: 2 of 3" in result.stdout
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "b.jpg is damaged" in error


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_names_do_not_steer_the_terminal(run: Callable, photo_file: Path) -> None:
    photo_file.rename("a\x1b]52;c;eA==\x07\n\x9b2Jb.png")
    Path("c\x1b[2J.png").write_text("no picture")
    result = run("masks", ".", *UNTRAINED)
    assert result.stderr.splitlines()[0].startswith(r"a\x1b]52;c;eA==\x07\n\x9b2Jb.png: ")
    assert r"error: c\x1b[2J.png is no image" in result.stderr.splitlines()[-1]
    assert run("masks", "x\x1b[2J").stderr.startswith(r"error: x\x1b[2J does not exist")


def test_a_locked_image_among_good_ones(
    run: Callable, tmp_path: Path, photo_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked, access, opened = tmp_path / "locked.png", os.access, Path.open
    shutil.copy(photo_file, locked)

    def refusing(path: Path, *args: object, **options: object) -> object:
        if path.name == locked.name:
            raise PermissionError
        return opened(path, *args, **options)

    monkeypatch.setattr(
        os, "access", lambda path, mode: locked.name not in path and access(path, mode)
    )
    monkeypatch.setattr(Path, "open", refusing)
    result = run("masks", locked, photo_file, *ALL, "--no-overlay")
    assert result.exit_code == 2
    assert "images: 1 of 2" in result.stdout
    assert result.stderr.splitlines()[-1].endswith("locked.png cannot be opened: allow reading it")


def test_two_images_of_one_name(run: Callable, tmp_path: Path, photo_file: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shutil.copy(photo_file, tmp_path / name / "cat.png")
    assert run("masks", "one", "two", *ALL, "--format", "coco", "--no-overlay").exit_code == 0
    assert loaded(tmp_path / "out" / "cat.json")[0]["file_name"] == "one/cat.png"
    assert loaded(tmp_path / "out" / "cat_2.json")[0]["file_name"] == "two/cat.png"


def test_own_results_are_not_segmented(run: Callable, photo_file: Path) -> None:
    for _ in range(2):
        assert "images: 1 of 1" in run("masks", ".", *ALL).stdout


# --- bad options and places ----------------------------------------------------------------


def test_checkpoint_of_another_model(
    run: Callable, photo_file: Path, only_error: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    other = replace(ARCHITECTURES["vit_s"], embed_dim=48, depth=2, global_attn_indexes=(1,))
    monkeypatch.setitem(ARCHITECTURES, "vit_b", other)
    save_file(new_sam(other).state_dict(), photo_file.with_name("other.safetensors"))
    line = only_error(run("masks", photo_file, *ALL, "--checkpoint", "other.safetensors"))
    assert "other.safetensors is a vit_b checkpoint, not vit_s" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_where_there_is_none(run: Callable, photo_file: Path, only_error: Callable) -> None:
    line = only_error(run("masks", photo_file, *ALL, "--device", "cuda"))
    assert "'cuda' is not available" in line


def test_folder_that_cannot_be_written(
    run: Callable, photo_file: Path, only_error: Callable
) -> None:
    for out in ("photo.png", "photo.png/below"):
        line = only_error(run("masks", photo_file, *ALL, "--out", out))
        assert f"cannot write to {Path(out)}" in line


def test_unknown_format(run: Callable, photo_file: Path, only_error: Callable) -> None:
    assert "'gif'" in only_error(run("masks", photo_file, *ALL, "--format", "coco,gif"))
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [("--model", "vit_x"), ("--points-per-side", 0), ("--device", "tpu")],
)
def test_values_that_options_do_not_take(
    run: Callable, photo_file: Path, option: str, value: object
) -> None:
    result = run("masks", photo_file, *ALL, option, value)
    assert result.exit_code == 2
    assert option in result.stderr


@pytest.mark.parametrize("command", ["masks", "batch"])
def test_a_threshold_that_is_no_number(
    run: Callable, photo_file: Path, only_error: Callable, command: str
) -> None:
    line = only_error(run(command, photo_file, "--stability-score-thresh", "nan"))
    assert line.startswith("error: --stability-score-thresh is no number: give one")
    assert not Path("out").exists()


def test_unknown_speed(run: Callable, photo_file: Path, only_error: Callable) -> None:
    assert "'warp'" in only_error(run("masks", photo_file, *ALL, "--speed", "warp"))


def test_what_cannot_be_written_does_not_stop_the_others(
    run: Callable, photo_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_bytes(photo_file.read_bytes())
    Path("out").mkdir()
    segmented: list[tuple[int, ...]] = []
    generate = SamAutomaticMaskGenerator.generate

    def counted(generator: SamAutomaticMaskGenerator, image: np.ndarray, *more: Any) -> list:
        segmented.append(image.shape)
        return generate(generator, image, *more)

    monkeypatch.setattr(SamAutomaticMaskGenerator, "generate", counted)
    Path("out", "a.json").write_text("{}")  # somebody's own
    result = run("masks", folder, *ALL)
    assert result.exit_code == 2
    assert "a.json is there and not as a run of ours left it" in result.stderr
    assert "images: 1 of 2" in result.stdout
    assert f"{folder / 'a.jpg'}: not written" in result.stderr
    assert Path("out", "b.json").exists()
    assert len(segmented) == 1  # it was known before the work


def test_results_do_not_go_among_the_images(
    run: Callable, photo_file: Path, only_error: Callable
) -> None:
    folder = photo_file.parent
    assert "is the folder of the images" in only_error(run("masks", folder, "--out", folder))


def test_an_image_that_memory_is_short_of(
    run: Callable, photo_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scarce(image: np.ndarray, records: list) -> np.ndarray:
        if not scarce.done:
            scarce.done = True
            raise MemoryError
        return image

    scarce.done = False  # type: ignore[attr-defined]
    monkeypatch.setattr("expedit_sam.draw.overlay", scarce)
    result = run("masks", photo_file, shutil.copy(photo_file, "another.png"), *ALL)
    assert result.exit_code == 2
    assert f"error: {photo_file} needs more memory than there is" in result.stderr
    assert Path("out/another.json").exists()
    assert not Path("out/photo.json").exists()


def test_full_disk(
    run: Callable, photo_file: Path, only_error: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: object, **__: object) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_text", full)  # the json, after masks and overlay
    another = shutil.copy(photo_file, "another.png")
    assert "cannot write to out (No space left on device)" in only_error(
        run("masks", photo_file, another, *ALL)
    )
    assert files(Path("out")) == []
