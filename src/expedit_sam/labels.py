"""Masks as labels that annotation and training tools read, written by the supervision package."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from expedit_sam.draw import binary_mask
from expedit_sam.errors import InputError

_CLASS = "object"


def require_supervision(format: str) -> None:
    """Raise ``InputError`` unless what writes this format is installed."""
    if find_spec("supervision") is None:
        raise InputError(f"format {format} needs supervision: pip install 'expedit-sam[labels]'")


def yolo_lines(image_size: tuple[int, ...], records: Sequence[dict[str, Any]]) -> str:
    """Masks as YOLO segmentation labels: a line of class 0 and a polygon for each connected piece.

    Arguments:
        image_size: (H, W) of the image.
        records: a dict a mask with its ``segmentation``.
    """
    from supervision.dataset.formats.yolo import detections_to_yolo_annotations

    height, width = image_size[:2]
    lines = (
        line
        for record in records
        for line in detections_to_yolo_annotations(
            _detection(record), (height, width), approximation_percentage=0.0
        )
    )
    return "".join(f"{line}\n" for line in lines)


def labelme_document(
    image_file: str | os.PathLike[str],
    image_size: tuple[int, ...],
    records: Sequence[dict[str, Any]],
) -> str:
    """Masks as LabelMe's json: polygons called "object"; pieces of one mask share a group.

    Arguments:
        image_file: the image, as LabelMe will look for it beside the json.
        image_size: (H, W) of the image.
        records: a dict a mask with its ``segmentation``.
    """
    from supervision.dataset.formats.labelme import detections_to_labelme_shapes

    height, width = image_size[:2]
    shapes: list[dict[str, Any]] = []
    for number, record in enumerate(records):
        pieces = detections_to_labelme_shapes(_detection(record), [_CLASS])
        group = number if len(pieces) > 1 else None
        shapes += [piece | {"group_id": group} for piece in pieces]
    document: dict[str, Any] = {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": Path(image_file).name,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }
    return json.dumps(document, indent=2) + "\n"


def _detection(record: dict[str, Any]) -> Any:
    """One mask as supervision has it: all at once would be copies of the image's size."""
    import supervision

    mask = binary_mask(record)[None]
    boxes = supervision.mask_to_xyxy(mask).astype(np.float32)
    return supervision.Detections(xyxy=boxes, mask=mask, class_id=np.zeros(1, int))
