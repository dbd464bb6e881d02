"""Writing masks to files: COCO json, a PNG for each mask, and an overlay picture.

The files of one image appear together, complete, or not at all.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco

from expedit_sam import labels
from expedit_sam.appearing import appearing_together, mask_name
from expedit_sam.draw import binary_mask, run_lengths
from expedit_sam.errors import InputError
from expedit_sam.everything import rle
from expedit_sam.extras import require
from expedit_sam.label_files import labelled_image, remember_labels
from expedit_sam.mask_files import corrected_masks, masked_image, write_mask

FORMATS = ("coco", "png", "yolo", "labelme")
USUAL_FORMATS = ("coco", "png")

DESCRIPTION = "Masks by Expedit-SAM"  # of COCO json
CATEGORY = {"id": 1, "name": "object", "supercategory": ""}

_JPEG_LIMIT = 65_500  # pixels a side


def write_results(
    folder: str | os.PathLike[str],
    name: str,
    image_file: str | os.PathLike[str],
    image_size: tuple[int, ...],
    records: Sequence[dict[str, Any]],
    formats: Collection[str] = USUAL_FORMATS,
    overlay: np.ndarray | None = None,
    logits: np.ndarray | None = None,
) -> list[Path]:
    """Write the masks of one image, replacing those of an earlier run.

    People correct masks. So json, PNGs and label files are replaced only if they are still what an
    earlier run wrote, and wrote for this image. COCO json and PNGs hold a hash of their contents; a
    label file (YOLO, LabelMe) cannot, so a hidden file of the folder keeps those.

    ::

        write_results("out", "photo", "photo.jpg", image.shape, masks)

    Arguments:
        folder: where to write; made if it is missing.
        name: what the files' names begin with.
        image_file: the image, as the COCO json will name it.
        image_size: (H, W) of the image.
        records: a dict a mask with its ``segmentation`` and whatever else is to be kept.
        formats: "coco" for ``<name>.json``, "png" for ``<name>_masks/001.png`` and so on (the
            numbers are the ids in the json), "yolo" for ``<name>.txt`` and "labelme" for
            ``<name>.json``, or ``<name>.labelme.json`` beside "coco".
        overlay: HxWx3 picture for ``<name>_overlay.jpg``.
        logits: 1xhxw low-res logits for ``<name>_logits.npy``.

    Returns:
        what was written: files, and the folder of PNGs.

    Raises:
        InputError: a format is unknown, a file of somebody's own or the masks of another image are
            in the way, or something could not be written; then nothing of this image is.
    """
    formats = check_formats(formats)
    with appearing_together(Path(folder)) as place:
        check_replaceable(Path(folder), name, image_file, formats)
        image_from_there = _path_from(folder, image_file)
        if "png" in formats:
            _write_masks(place / f"{name}_masks", records, image_from_there)
        if overlay is not None:
            suffix = "jpg" if max(overlay.shape) <= _JPEG_LIMIT else "png"
            _write_picture(place / f"{name}_overlay.{suffix}", overlay)
        if logits is not None:
            content = io.BytesIO()  # NumPy does not notice a disk that is full at a file's end
            np.save(content, logits)
            (place / f"{name}_logits.npy").write_bytes(content.getvalue())
        if "coco" in formats:
            document = coco_document(image_file, image_size, records)
            document["info"]["contents"] = _contents(document)
            (place / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")
        for format, file in _label_files(name, formats).items():
            if format == "yolo":
                text = labels.yolo_lines(image_size, records)
            else:
                text = labels.labelme_document(image_from_there, image_size, records)
            _write_labels(place / file, text, Path(folder), image_from_there)
        return sorted(Path(folder, path.name) for path in place.iterdir())


def coco_document(
    image_file: str | os.PathLike[str],
    image_size: tuple[int, ...],
    records: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """One image and its masks in COCO's format, for json and ``pycocotools.coco.COCO``.

    Annotations have ``id`` (from 1), ``image_id``, ``category_id``, ``segmentation`` (run-length
    encoded), ``area`` (pixels), ``bbox`` (x, y, width, height), ``iscrowd`` 0, and all other
    entries of the record.
    """
    height, width = image_size[:2]
    return {
        "info": {"description": DESCRIPTION},
        "images": [
            {"id": 1, "file_name": Path(image_file).as_posix(), "width": width, "height": height}
        ],
        "categories": [CATEGORY],
        "annotations": [_annotation(number, record) for number, record in enumerate(records, 1)],
    }


def result_names(images: Iterable[Path]) -> list[str]:
    """A name for each image's results: the file's without suffix, numbered where it is taken."""
    names: list[str] = []
    taken: set[str] = set()
    numbers: dict[str, Iterator[int]] = {}  # by the file's name, where the last search ended
    for image in images:
        name = stem = image.stem
        while name.casefold() in taken:  # some file systems take A for a
            number = next(numbers.setdefault(stem.casefold(), itertools.count(2)))
            name = f"{stem}_{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


def check_inputs_stay(folder: Path, given: Iterable[Path], images: Iterable[Path]) -> None:
    """Check that results in a folder replace no image, and are not taken for images next time.

    Arguments:
        folder: of the results.
        given: the files and folders that were asked for.
        images: the image files in them.

    Raises:
        InputError: the folder is one of those given, or an image is named as a result.
    """
    place = os.path.realpath(folder)  # Path.resolve raises at links that lead to themselves
    if any(path.is_dir() and os.path.realpath(path) == place for path in given):
        raise InputError(f"{folder} is the folder of the images: choose another one for results")
    images = list(images)
    places = {os.path.realpath(image): image for image in images}
    for name in result_names(images):
        for suffix in ("jpg", "png"):
            if image := places.get(os.path.realpath(folder / f"{name}_overlay.{suffix}")):
                raise InputError(f"{image} would be replaced by a result: choose another folder")


def check_formats(names: Iterable[str]) -> list[str]:
    """The names of formats without spaces around them.

    Raises:
        InputError: one is unknown, or needs a package that is not there.
    """
    formats = [name.strip() for name in names]
    if unknown := [name for name in formats if name not in FORMATS]:
        raise InputError(f"no format is called {unknown[0]!r}: choose one of {', '.join(FORMATS)}")
    for name in formats:
        if name in ("yolo", "labelme"):
            require(f"format {name}", "labels", "supervision")
    return formats


def check_replaceable(
    folder: Path, name: str, image_file: str | os.PathLike[str], formats: Collection[str]
) -> None:
    """Check, before the work, that an image's results replace a run's of this image.

    Whether labels were corrected is seen when others are written, which may be the same.

    Raises:
        InputError: they would replace somebody's own, corrected ones, or those of another image.
    """
    if "coco" in formats:
        _check_document(folder / f"{name}.json", image_file)
    if "png" in formats:
        masks = folder / f"{name}_masks"
        for path in corrected_masks(masks):
            raise _in_the_way(path)
        _check_image(masks, _seen_from(folder, masked_image(masks)), image_file)
    for file in _label_files(name, formats).values():
        path = folder / file
        before = labelled_image(path) if path.is_file() else None
        _check_image(path, _seen_from(folder, before or ""), image_file)


def _check_document(path: Path, image_file: str | os.PathLike[str]) -> None:
    if not path.is_file():  # a folder is refused when results move to their place
        return
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        is_ours = document["info"].pop("contents") == _contents(document)
        before = document["images"][0]["file_name"]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        is_ours = False
    if not is_ours:
        raise _in_the_way(path)
    _check_image(path, before, image_file)


def _check_image(path: Path, before: str, image_file: str | os.PathLike[str]) -> None:
    """Check that results are not those of another image, as long as that one is there."""
    if (
        before
        and Path(before).exists()
        and os.path.realpath(before) != os.path.realpath(image_file)
    ):
        raise InputError(f"{path} has the masks of {Path(before)}: choose another folder")


def _in_the_way(path: Path) -> InputError:
    """That a file is somebody's own."""
    return InputError(
        f"{path} is there and not as a run of ours left it: "
        "rename or delete it, or choose another folder"
    )


def _contents(document: dict[str, Any]) -> str:
    """Hash of a document, in hexadecimal."""
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()


def _path_from(folder: str | os.PathLike[str], file: str | os.PathLike[str]) -> str:
    """The path that leads from a folder to a file."""
    try:
        return os.path.relpath(file, os.path.realpath(folder))
    except ValueError:  # they are on two drives of Windows
        return os.path.abspath(file)  # noqa: PTH100


def _seen_from(folder: Path, path: str) -> str:
    """Where a path leads from a folder."""
    return os.path.normpath(Path(os.path.realpath(folder), path)) if path else ""


def _label_files(name: str, formats: Collection[str]) -> dict[str, str]:
    """The names of an image's label files, by their formats."""
    # LabelMe looks for the first, unless it is asked to open a file.
    labelme = f"{name}.json" if "coco" not in formats else f"{name}.labelme.json"
    names = {"yolo": f"{name}.txt", "labelme": labelme}
    return {format: file for format, file in names.items() if format in formats}


def _write_labels(new: Path, text: str, folder: Path, image_from_there: str) -> None:
    """Write labels in the hidden folder, if those that they will replace in ``folder`` are ours."""
    new.write_text(text, encoding="utf-8")
    old = folder / new.name
    if old.is_file():
        is_known = labelled_image(old) is not None
        is_same = old.read_bytes() == new.read_bytes()
        if is_known and is_same:
            return
        if not (is_known or is_same):
            raise _in_the_way(old)
    remember_labels(new, folder, image_from_there)


def _annotation(number: int, record: dict[str, Any]) -> dict[str, Any]:
    encoded = run_lengths(record)
    return {
        **{name: _plain(value) for name, value in record.items()},
        "id": number,
        "image_id": 1,
        "category_id": CATEGORY["id"],
        "segmentation": rle.to_coco(encoded),
        "area": rle.area(encoded),
        "bbox": coco.toBbox(encoded).tolist(),
        "iscrowd": 0,
    }


def _plain(value: Any) -> Any:
    """A value as json can hold it. It has no NaN, which is the stability of an empty mask."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    return None if isinstance(value, float) and math.isnan(value) else value


def _write_masks(folder: Path, records: Sequence[dict[str, Any]], image: str) -> None:
    folder.mkdir()
    for number, record in enumerate(records, 1):
        write_mask(folder / mask_name(number), binary_mask(record), image)


def _write_picture(path: Path, picture: np.ndarray) -> None:
    """Write HxWx3 RGB, in the format of the path's suffix."""
    _, encoded = cv2.imencode(path.suffix, picture[..., ::-1])
    path.write_bytes(encoded.tobytes())
