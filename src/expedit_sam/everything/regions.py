"""Small holes and islands of a mask."""

from __future__ import annotations

import cv2
import numpy as np


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
