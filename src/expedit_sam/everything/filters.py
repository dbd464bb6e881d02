"""What is worth keeping: scores of masks, their boxes, and non-maximum suppression.

Arrays may be NumPy's or PyTorch's, on any device (see the Python array API standard).
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import cv2
import numpy as np
from array_api_compat import array_namespace, device, to_device

Array = Any


def calculate_stability_score(
    masks: Array, mask_threshold: float, threshold_offset: float
) -> Array:
    """How little a mask changes with the threshold: IoU of a strict and a lenient cut.

    Arguments:
        masks: ...xHxW logits.
        mask_threshold: the usual threshold.
        threshold_offset: how far above and below it to cut.

    Returns:
        scores, 0 to 1, in the leading shape; NaN for a mask that is empty even at the lenient cut.
    """
    xp = array_namespace(masks)
    strict = xp.sum(masks > mask_threshold + threshold_offset, axis=(-2, -1))
    lenient = xp.sum(masks > mask_threshold - threshold_offset, axis=(-2, -1))
    with np.errstate(invalid="ignore"):
        return strict / lenient


def batched_mask_to_box(masks: Array) -> Array:
    """...x4 boxes (x0, y0, x1, y1) of the outermost pixels of ...xHxW masks; zeros where empty."""
    xp = array_namespace(masks)
    if 0 in masks.shape:
        return xp.zeros((*masks.shape[:-2], 4), device=device(masks))
    edges = []
    for filled in (xp.any(masks, axis=-2), xp.any(masks, axis=-1)):
        length = filled.shape[-1]
        numbers = xp.astype(filled, xp.uint8)
        first = xp.argmax(numbers, axis=-1)
        last = length - 1 - xp.argmax(xp.flip(numbers, axis=-1), axis=-1)
        edges.append((first, last, xp.any(filled, axis=-1)))
    (left, right, occupied), (top, bottom, _) = edges
    return xp.stack([left, top, right, bottom], axis=-1) * occupied[..., None]


def is_box_near_crop_edge(
    boxes: Array, crop_box: list[int], orig_box: list[int], atol: float = 20.0
) -> Array:
    """N booleans: which of Nx4 boxes touch an edge of the crop that is no edge of the image.

    Arguments:
        boxes: (x0, y0, x1, y1) in pixels of the crop.
        crop_box, orig_box: (x0, y0, x1, y1) of the crop and of the whole image, in its pixels.
        atol: distance in pixels up to which a box touches an edge.
    """
    xp = array_namespace(boxes)
    crop, image = (
        xp.asarray(box, dtype=xp.float32, device=device(boxes)) for box in (crop_box, orig_box)
    )
    boxes = xp.astype(uncrop_boxes_xyxy(boxes, crop_box), xp.float32)
    near_crop = xp.abs(boxes - crop) <= atol
    near_image = xp.abs(boxes - image) <= atol
    return xp.any(near_crop & ~near_image, axis=1)


def box_xyxy_to_xywh(box_xyxy: Any) -> Any:
    """(x0, y0, x1, y1) to (x0, y0, width, height)."""
    box = deepcopy(box_xyxy)
    box[2], box[3] = box[2] - box[0], box[3] - box[1]
    return box


def uncrop_boxes_xyxy(boxes: Array, crop_box: list[int]) -> Array:
    """...x4 boxes from the frame of a crop to the frame of the image."""
    x0, y0 = crop_box[:2]
    return boxes + array_namespace(boxes).asarray([x0, y0, x0, y0], device=device(boxes))


def uncrop_points(points: Array, crop_box: list[int]) -> Array:
    """...x2 points from the frame of a crop to the frame of the image."""
    return points + array_namespace(points).asarray(crop_box[:2], device=device(points))


def uncrop_masks(masks: Array, crop_box: list[int], orig_h: int, orig_w: int) -> Array:
    """NxHxW masks of a crop to NxorigHxorigW masks of the image, empty outside the crop."""
    x0, y0, x1, y1 = crop_box
    if (x0, y0, x1, y1) == (0, 0, orig_w, orig_h):
        return masks
    shape = (*masks.shape[:-2], orig_h, orig_w)
    whole = array_namespace(masks).zeros(shape, dtype=masks.dtype, device=device(masks))
    whole[..., y0:y1, x0:x1] = masks
    return whole


def suppress_duplicates(boxes: Array, scores: Array, iou_threshold: float) -> np.ndarray:
    """Non-maximum suppression of Nx4 boxes (x0, y0, x1, y1): indices kept, best first.

    A box without area, such as that of a mask one pixel wide, duplicates no other.

    Source: Segment Anything, appendix B.

    Arguments:
        boxes: Nx4.
        scores: N; the higher of two duplicates is kept.
        iou_threshold: box IoU above which two boxes are duplicates.
    """
    order = np.argsort(-np.asarray(to_device(scores, "cpu")), kind="stable")
    rank = np.empty(len(order))
    # OpenCV wants positive scores; only their order matters.
    rank[order] = np.arange(len(order), 0, -1)
    corners = np.asarray(to_device(boxes, "cpu"), dtype=float)
    as_xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    # OpenCV would take all boxes without area for duplicates of each other.
    (with_area,) = np.nonzero(as_xywh[:, 2:].all(axis=1))
    best = cv2.dnn.NMSBoxes(
        as_xywh[with_area].tolist(), rank[with_area].tolist(), 0.0, iou_threshold
    )
    is_kept = np.ones(len(order), bool)
    is_kept[with_area] = False
    is_kept[with_area[np.asarray(best, dtype=int).reshape(-1)]] = True
    return order[is_kept[order]]
