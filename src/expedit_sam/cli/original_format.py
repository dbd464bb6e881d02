"""Results as the original package's script writes them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from expedit_sam.appearing import appearing_together

HEADER = (
    "id,area,bbox_x0,bbox_y0,bbox_w,bbox_h,point_input_x,point_input_y,predicted_iou,"
    "stability_score,crop_box_x0,crop_box_y0,crop_box_w,crop_box_h"
)


def write_folder(masks: Iterable[dict[str, Any]], folder: Path) -> None:
    """Write a new folder of ``0.png``, ``1.png`` ... (0 and 255) and ``metadata.csv``.

    Arguments:
        masks: records of ``SamAutomaticMaskGenerator`` with binary masks.
        folder: must not exist yet; it appears complete or not at all.

    Raises:
        InputError: something could not be written.
    """
    with appearing_together(folder.parent) as place:
        unfinished = place / folder.name
        unfinished.mkdir()
        lines = [HEADER]
        for number, mask in enumerate(masks):
            pixels = mask["segmentation"].astype(np.uint8) * 255
            Image.fromarray(pixels).save(unfinished / f"{number}.png")
            lines.append(",".join(map(str, [number, *_row(mask)])))
        (unfinished / "metadata.csv").write_text("\n".join(lines))


def write_json(masks: Iterable[dict[str, Any]], file: Path) -> None:
    """Write a list of the records, whose masks are COCO RLE; the file is replaced as a whole.

    Arguments:
        masks: records of ``SamAutomaticMaskGenerator``.
        file: its folder is made if it is missing.

    Raises:
        InputError: it could not be written.
    """
    with appearing_together(file.parent) as place:
        (place / file.name).write_text(json.dumps(list(masks)))


def _row(mask: dict[str, Any]) -> list[float]:
    scores = [mask["predicted_iou"], mask["stability_score"]]
    return [mask["area"], *mask["bbox"], *mask["point_coords"][0], *scores, *mask["crop_box"]]
