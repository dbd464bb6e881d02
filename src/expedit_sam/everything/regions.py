"""Small holes and islands of masks."""

from __future__ import annotations

import cv2
import numpy as np
from array_api_compat import array_namespace

from expedit_sam.everything import rle
from expedit_sam.everything.filters import batched_mask_to_box, suppress_duplicates
from expedit_sam.everything.mask_data import MaskData


def clear_small_regions(mask_data: MaskData, min_area: int, nms_thresh: float) -> MaskData:
    """Remove small holes and islands, then the duplicates that appear.

    Arguments:
        mask_data: columns ``rles`` and ``boxes`` among others; changed in place.
        min_area: regions of fewer pixels are small.
        nms_thresh: box IoU above which one of two masks is a duplicate; unchanged masks win.

    Returns:
        ``mask_data``.
    """
    if not len(mask_data["rles"]):
        return mask_data
    boxes: list[np.ndarray] = []
    unchanged: list[bool] = []
    own = mask_data["boxes"]
    for i, encoded in enumerate(mask_data["rles"]):  # one mask of the image's size in memory
        mask, filled = remove_small_regions(rle.decode_mask(encoded), min_area, mode="holes")
        mask, cleared = remove_small_regions(mask, min_area, mode="islands")
        boxes.append(batched_mask_to_box(mask))
        unchanged.append(not (filled or cleared))
        if not unchanged[i]:
            mask_data["rles"][i] = rle.encode_masks(mask[None])[0]
            own[i] = array_namespace(own).asarray(boxes[i])
    mask_data.filter(suppress_duplicates(np.stack(boxes), np.array(unchanged, float), nms_thresh))
    return mask_data


def remove_small_regions(
    mask: np.ndarray, area_thresh: float, mode: str
) -> tuple[np.ndarray, bool]:
    """Fill small holes of a mask, or drop its small islands.

    Arguments:
        mask: HxW booleans.
        area_thresh: regions (8-connected) of fewer pixels are small.
        mode: "holes" or "islands". Where all islands are small the largest stays.

    Returns:
        the mask, and whether it changed.
    """
    if mode not in ("holes", "islands"):
        raise ValueError(f"mode is {mode!r}; it must be 'holes' or 'islands'")
    holes = mode == "holes"
    _, labels, stats, _ = cv2.connectedComponentsWithStats(
        (mask ^ holes).astype(np.uint8), connectivity=8
    )
    areas = stats[1:, cv2.CC_STAT_AREA]  # label 0 is all the rest
    small = areas < area_thresh
    if not small.any():
        return mask, False
    if holes:
        filled = np.concatenate([[True], small])
    else:
        if small.all():
            small[areas.argmax()] = False
        filled = np.concatenate([[False], ~small])
    return filled[labels], True
