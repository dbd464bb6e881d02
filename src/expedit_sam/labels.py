"""Masks as labels that annotation and training tools read, written by the supervision package."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from expedit_sam.draw import binary_mask

_CLASS = "object"


def yolo_lines(image_size: tuple[int, ...], records: Sequence[dict[str, Any]]) -> str:
    """Masks as YOLO segmentation labels: a line of class 0 and a polygon for each connected piece.

    What is too thin for a polygon is left out; a cut from its edge leads to each hole.

    Arguments:
        image_size: (H, W) of the image.
        records: a dict a mask with its ``segmentation``.
    """
    from supervision.dataset.formats.yolo import detections_to_yolo_annotations

    height, width = image_size[:2]

    def polygons(detection: Any) -> list[str]:
        lines = detections_to_yolo_annotations(
            detection, (height, width), approximation_percentage=0.0
        )
        return [line for line in lines if len(line.split()) > 5]  # a class and a box

    return "".join(f"{line}\n" for record in records for line in _pieces(polygons, record))


def labelme_document(
    image_file: str | os.PathLike[str],
    image_size: tuple[int, ...],
    records: Sequence[dict[str, Any]],
) -> str:
    """Masks as LabelMe's json: polygons called "object"; pieces of one mask share a group.

    What is too thin for a polygon is left out; a cut from its edge leads to each hole.

    Arguments:
        image_file: the image, by its path from the folder of the json, where LabelMe looks for it.
        image_size: (H, W) of the image.
        records: a dict a mask with its ``segmentation``.
    """
    from supervision.dataset.formats.labelme import detections_to_labelme_shapes

    def polygons(detection: Any) -> list[dict[str, Any]]:
        shapes = detections_to_labelme_shapes(detection, [_CLASS])
        return [shape for shape in shapes if shape["shape_type"] == "polygon"]

    height, width = image_size[:2]
    shapes: list[dict[str, Any]] = []
    for number, record in enumerate(records):
        pieces = _pieces(polygons, record)
        group = number if len(pieces) > 1 else None
        shapes += [piece | {"group_id": group} for piece in pieces]
    document: dict[str, Any] = {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": Path(image_file).as_posix(),
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
    }
    return json.dumps(document, indent=2) + "\n"


def _pieces(polygons: Callable[[Any], list[Any]], record: dict[str, Any]) -> list[Any]:
    """The polygons of one mask; its holes are filled if no cut along the mask reaches one."""
    mask = binary_mask(record)
    try:
        return polygons(_detection(mask))
    except ValueError:
        outer, _ = cv2.findContours(
            mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
        )
        filled = cv2.drawContours(np.zeros(mask.shape, np.uint8), outer, -1, 1, cv2.FILLED)
        return polygons(_detection(filled.astype(bool)))


def _detection(mask: np.ndarray) -> Any:
    """One mask as supervision has it: all at once would be copies of the image's size."""
    import supervision

    boxes = supervision.mask_to_xyxy(mask[None]).astype(np.float32)
    return supervision.Detections(xyxy=boxes, mask=mask[None], class_id=np.zeros(1, int))
