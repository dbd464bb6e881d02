from __future__ import annotations

import json
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from expedit_sam.errors import InputError
from expedit_sam.evaluate.datasets import Example, draw_examples, find_examples
from expedit_sam.everything.rle import decode_mask
from expedit_sam.images import read_image

SQUARE = [60, 40, 120, 40, 120, 90, 60, 90]


def masks(example: Example, at_most: int | None = None, seed: int = 0) -> list[np.ndarray]:
    return [decode_mask(region) for region in example.read(at_most, seed)[1]]


def labels(folder: Path) -> np.ndarray:
    return np.asarray(Image.open(folder / "one.png"))


def test_label_maps(labelled: Path) -> None:
    examples = find_examples(labelled)
    assert [example.image_file.name for example in examples] == ["one.jpg", "two.jpg"]
    image, _ = examples[0].read(None, 0)
    np.testing.assert_array_equal(image, read_image(labelled / "one.jpg"))
    found = masks(examples[0])
    assert len(found) == 2  # neither the background nor a region of less than 0.1 %
    for number, mask in enumerate(found, 1):
        np.testing.assert_array_equal(mask, labels(labelled) == number)


def test_colours_as_labels(labelled: Path) -> None:
    palette = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 1]], np.uint8)
    numbers = labels(labelled)
    Image.fromarray(palette[numbers]).save(labelled / "one.png")
    found = masks(find_examples(labelled)[0])
    assert sorted(mask.sum() for mask in found) == [(numbers == 2).sum(), (numbers == 1).sum()]


def test_labels_of_16_bits(labelled: Path) -> None:
    numbers = labels(labelled).astype(np.uint16)
    Image.fromarray(numbers * 300).save(labelled / "one.png")
    found = masks(find_examples(labelled)[0])
    assert [mask.sum() for mask in found] == [(numbers == 1).sum(), (numbers == 2).sum()]


def test_transparency_is_no_part_of_a_label(labelled: Path) -> None:
    with Image.open(labelled / "one.png") as numbers:
        grey = numbers.convert("L")
    Image.merge("LA", (grey, Image.effect_noise(grey.size, 50))).save(labelled / "one.png")
    assert len(masks(find_examples(labelled)[0])) == 2


def test_photographs_in_png(labelled: Path) -> None:
    segmentations = labels(labelled)[None]
    with Image.open(labelled / "one.jpg") as photo:
        photo.save(labelled / "three.png")
    for name in ("one", "three"):
        np.savez(labelled / f"{name}.npz", segmentations=segmentations)
    examples = find_examples(labelled)
    assert [(example.image_file.name, example.regions_file.name) for example in examples] == [
        ("one.jpg", "one.npz"),
        ("three.png", "three.npz"),
        ("two.jpg", "two.png"),
    ]


def test_regions_of_several_annotators(labelled: Path) -> None:
    numbers = labels(labelled).astype(np.uint16)
    np.savez(labelled / "one.npz", segmentations=np.stack([numbers, numbers + 1]))
    assert [mask.sum() for mask in masks(find_examples(labelled)[0])] == [
        *[(numbers == n).sum() for n in (1, 2)],
        *[(numbers == n).sum() for n in (0, 1, 2)],
    ]


def test_regions_are_drawn_by_seed(labelled: Path) -> None:
    example = find_examples(labelled)[0]
    drawn = {masks(example, 1, seed)[0].sum() for seed in range(20)}
    assert drawn == {(labels(labelled) == n).sum() for n in (1, 2)}
    np.testing.assert_array_equal(masks(example, 1, 5), masks(example, 1, 5))


def coco_json(folder: Path, **changes: object) -> Path:
    mask = np.zeros((150, 221), np.uint8)
    mask[40:90, 60:120] = 1
    packed = coco.encode(np.asfortranarray(mask))
    runs = {"size": [150, 221], "counts": [60 * 150 + 40, 50, 150 * 221 - 60 * 150 - 90]}
    segmentations = [
        [SQUARE],
        {"size": packed["size"], "counts": packed["counts"].decode()},
        runs,
        [SQUARE],
    ]
    document = {
        "images": [{"id": 7, "file_name": "one.jpg", "height": 150, "width": 221}],
        "annotations": [
            {"id": i, "image_id": 7, "segmentation": segmentation, "iscrowd": int(i == 3)}
            for i, segmentation in enumerate(segmentations)
        ],
    }
    file = folder / "instances.json"
    file.write_text(json.dumps(document | changes))
    return file


def test_coco(labelled: Path) -> None:
    (example,) = find_examples(coco_json(labelled))
    areas = [mask.sum() for mask in masks(example)]
    assert areas == [3000, 3000, 50]  # no crowds


def test_coco_annotations_without_an_area(labelled: Path) -> None:
    outlines = [[], [[60, 40, 120, 40]], None, [SQUARE], SQUARE]  # the last as VIA writes it
    annotations = [{"image_id": 7, "segmentation": outline} for outline in outlines]
    (example,) = find_examples(coco_json(labelled, annotations=[*annotations, {"image_id": 7}]))
    assert [mask.sum() for mask in masks(example)] == [3000, 3000]


def test_changed_labels_are_another_example(labelled: Path) -> None:
    (before,) = find_examples(coco_json(labelled))
    key = before.key
    (after,) = find_examples(coco_json(labelled, info={"version": 2}))
    assert key != after.key


def test_coco_with_images_elsewhere(labelled: Path, tmp_path: Path) -> None:
    (example,) = find_examples(coco_json(tmp_path), labelled)
    assert example.image_file == labelled / "one.jpg"


def deeply_nested(folder: Path) -> Path:
    file = folder / "deep.json"
    file.write_text("[" * 100_000)
    return file


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda folder: folder / "missing.json", "does not exist"),
        (lambda folder: folder / "one.jpg", "neither a folder nor a .json"),
        (lambda folder: coco_json(folder, images="x"), "is not in COCO's format"),
        (deeply_nested, "is not in COCO's format"),
        (
            lambda folder: coco_json(folder, images=[{"id": 7, "file_name": "one.jpg"}]),
            "KeyError: 'height'",
        ),
        (
            lambda folder: coco_json(
                folder, annotations=[{"id": 3, "image_id": 8, "segmentation": [SQUARE]}]
            ),
            "annotation 3 in .* there is no image 8",
        ),
        (lambda folder: coco_json(folder, annotations=[]), "holds no images with annotations"),
        (
            lambda folder: coco_json(
                folder, annotations=[{"image_id": 7, "segmentation": [SQUARE], "iscrowd": 1}]
            ),
            r"annotations that are no crowds \(iscrowd 0\)",
        ),
        (lambda folder: folder.parent, "holds no images with NAME.npz or NAME.png"),
    ],
)
def test_no_dataset(labelled: Path, make: object, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        find_examples(make(labelled))  # type: ignore[operator]
    assert "\n" not in str(caught.value)


def test_bad_regions(labelled: Path) -> None:
    examples = find_examples(labelled)
    (labelled / "one.png").write_bytes(b"no picture")
    Image.new("L", (8, 8), 1).save(labelled / "two.png")
    with pytest.raises(InputError, match=r"one\.png is no label map"):
        examples[0].read(None, 0)
    with pytest.raises(InputError, match=r"two\.jpg is 221x150 pixels and its regions 8x8"):
        examples[1].read(None, 0)
    (labelled / "one.npz").write_bytes(b"no arrays")
    with pytest.raises(InputError, match=r"one\.npz holds no 'segmentations'"):
        find_examples(labelled)[0].read(None, 0)


def test_regions_of_a_hostile_file(labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (300, 300)).save(labelled / "one.png")
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 20_000)  # at twice that Pillow raises
    with pytest.raises(InputError, match=r"one\.png is no label map"):
        find_examples(labelled)[0].read(None, 0)
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("was run"))
    Image.new("RGB", (9, 9)).save(labelled / "one.png", "EPS")
    with pytest.raises(InputError, match=r"one\.png is no label map"):
        find_examples(labelled)[0].read(None, 0)
    header = {"descr": "<u2", "fortran_order": False, "shape": (1, 10**6, 10**6)}
    with (
        zipfile.ZipFile(labelled / "one.npz", "w") as archive,
        archive.open("segmentations.npy", "w") as file,
    ):
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(InputError, match=r"one\.npz holds no 'segmentations'"):
        find_examples(labelled)[0].read(None, 0)


@pytest.mark.parametrize(
    "segmentation",
    [
        {"counts": "~~", "size": [2]},
        {"size": [150, 221]},
        {"counts": "P", "size": [150, 221]},
        {"counts": [-5, 150 * 221 + 5], "size": [150, 221]},
        [[60, 40, 1e300, 40, 120, 90]],
        [[60, 40, float("nan"), 40, 120, 90]],
        [[0, 0, 1e6, 1e6] * 60],
    ],
)
def test_a_segmentation_that_is_none(labelled: Path, segmentation: object) -> None:
    annotations = [{"image_id": 7, "segmentation": segmentation}]
    (example,) = find_examples(coco_json(labelled, annotations=annotations))
    with pytest.raises(InputError, match=r"instances\.json holds a segmentation"):
        example.read(None, 0)


@pytest.mark.parametrize("last", [150 * 221 - 60 * 50 - 1, 150 * 221 - 60 * 50 + 1, 10**9])
@pytest.mark.parametrize("packed", [False, True])
def test_run_lengths_of_another_number_of_pixels(labelled: Path, packed: bool, last: int) -> None:
    rle = {"size": [150, 221], "counts": [0, 60 * 50, last]}
    if packed:
        rle = coco.frPyObjects(rle, 150, 221)
        rle["counts"] = rle["counts"].decode()
    annotations = [{"image_id": 7, "segmentation": rle}]
    (example,) = find_examples(coco_json(labelled, annotations=annotations))
    with pytest.raises(InputError, match=r"instances\.json holds run lengths .* 33150 pixels"):
        example.read(None, 0)


def test_coco_with_a_byte_order_mark(labelled: Path) -> None:
    file = coco_json(labelled)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(find_examples(file)) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="names there are of letters, not of bytes")
def test_names_that_are_not_utf_8() -> None:
    name = os.fsdecode(b"b\xff.jpg")
    drawn = [Example(Path(name), Path("b.png"), list).random(seed).random() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_more_images_hold_those_of_fewer() -> None:
    examples = [Example(Path(f"{n}.jpg"), Path(f"{n}.png"), list) for n in range(10)]
    few, more = draw_examples(examples, 3, 1), draw_examples(examples, 6, 1)
    assert len(few) == 3
    assert set(few) <= set(more)
    assert more == sorted(more, key=lambda example: example.image_file)
    assert draw_examples(examples, None, 1) == draw_examples(examples, 99, 1) == examples
