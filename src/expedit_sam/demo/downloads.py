"""Files to take home, in the size of the picture that was uploaded."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import cv2
import numpy as np
from PIL import Image

from expedit_sam.appearing import appearing_together
from expedit_sam.demo.masks import full_size_mask
from expedit_sam.demo.networks import Encoding
from expedit_sam.demo.pictures import Picture, read_full_size
from expedit_sam.draw import binary_mask, overlay
from expedit_sam.everything import rle
from expedit_sam.results import write_results


def write_everything(
    picture: Picture, records: Sequence[dict[str, Any]], folder: Path, tell: Callable[[str], None]
) -> list[str]:
    """Write everything mode's masks as COCO json and a zip of PNGs, and their overlay.

    Arguments:
        picture: what they were found in.
        records: the masks, on the page's copy.
        folder: where to write.
        tell: called with each step that begins, in words.

    Returns:
        the paths of the files.

    Raises:
        InputError: the upload is not there any more, or the disk is full.
    """
    tell("scaling the masks")
    scaled = [_scaled(record, picture) for record in records]
    tell("drawing the overlay")
    image = read_full_size(picture)
    drawn = overlay(image, scaled)
    tell("writing files")
    with appearing_together(folder) as hidden:
        place = hidden / uuid4().hex
        write_results(place, picture.name, picture.path.name, image.shape, scaled, overlay=drawn)
        masks = place / f"{picture.name}_masks"
        shutil.make_archive(str(masks), "zip", masks)
        shutil.rmtree(masks)
    return sorted(map(str, (folder / place.name).iterdir()))


def write_cutout(
    picture: Picture, encoding: Encoding, logits: np.ndarray, folder: Path
) -> list[str]:
    """Write what a mask covers as a PNG, transparent around it and cropped to it, and the mask too.

    Arguments:
        picture: what to cut from.
        encoding: of the picture, by the network that the mask came from.
        logits: the mask's 4hx4w low-res logits.
        folder: where to write.

    Raises:
        InputError: the upload is not there any more, or the disk is full.
    """
    image = read_full_size(picture)
    mask = full_size_mask(encoding, logits, picture.full_size)
    cutout = np.dstack([image, mask.view(np.uint8) * 255])
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if len(rows):
        cutout = cutout[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    with appearing_together(folder) as hidden:
        place = hidden / uuid4().hex
        place.mkdir()
        Image.fromarray(cutout).save(place / f"{picture.name}_cutout.png")
        Image.fromarray(mask).save(place / f"{picture.name}_mask.png")
    return sorted(map(str, (folder / place.name).iterdir()))


def _scaled(record: dict[str, Any], picture: Picture) -> dict[str, Any]:
    """A record of a mask on the page's copy, scaled to the size of the uploaded picture."""
    height, width = picture.full_size
    factor = np.array([width / picture.image.shape[1], height / picture.image.shape[0]])
    if (factor == 1).all():
        return record
    covered = cv2.resize(binary_mask(record).astype(np.float32), (width, height))
    encoded = rle.encode_masks((covered > 0.5)[None])[0]
    return record | {
        "segmentation": rle.to_coco(encoded),
        "area": rle.area(encoded),
        "point_coords": (np.array(record["point_coords"]) * factor).tolist(),
        "crop_box": [0, 0, width, height],
    }
