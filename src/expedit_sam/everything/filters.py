"""What is worth keeping: scores of masks, their boxes, and non-maximum suppression."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def calculate_stability_score(
    masks: Tensor, mask_threshold: float, threshold_offset: float
) -> Tensor:
    """How little a mask changes with the threshold: IoU of a strict and a lenient cut.

    Arguments:
        masks: ...xHxW logits.
        mask_threshold: the usual threshold.
        threshold_offset: how far above and below it to cut.

    Returns:
        ... scores, 0 to 1; NaN for a mask that is empty even at the lenient cut.
    """
    strict = torch.count_nonzero(masks > mask_threshold + threshold_offset, dim=(-2, -1))
    lenient = torch.count_nonzero(masks > mask_threshold - threshold_offset, dim=(-2, -1))
    return strict / lenient


def batched_mask_to_box(masks: Tensor) -> Tensor:
    """Boxes (x0, y0, x1, y1) of the outermost pixels of ...xHxW masks; zeros where empty: ...x4."""
    if masks.numel() == 0:
        return torch.zeros(*masks.shape[:-2], 4, device=masks.device)
    edges = []
    for filled in (masks.any(dim=-2), masks.any(dim=-1)):
        length = filled.shape[-1]
        first = filled.to(torch.uint8).argmax(dim=-1)
        last = length - 1 - filled.flip(-1).to(torch.uint8).argmax(dim=-1)
        edges.append((first, last, filled.any(dim=-1)))
    (left, right, occupied), (top, bottom, _) = edges
    return torch.stack([left, top, right, bottom], dim=-1) * occupied[..., None]


def is_box_near_crop_edge(
    boxes: Tensor, crop_box: list[int], orig_box: list[int], atol: float = 20.0
) -> Tensor:
    """Which of Nx4 boxes (in the crop's frame) touch an edge of the crop inside the image: N."""
    crop, image = (
        torch.as_tensor(box, dtype=torch.float, device=boxes.device) for box in (crop_box, orig_box)
    )
    boxes = uncrop_boxes_xyxy(boxes, crop_box).float()
    near_crop = (boxes - crop).abs() <= atol
    near_image = (boxes - image).abs() <= atol
    return (near_crop & ~near_image).any(dim=1)


def box_xyxy_to_xywh(box_xyxy: Any) -> Any:
    """(x0, y0, x1, y1) to (x0, y0, width, height)."""
    box = deepcopy(box_xyxy)
    box[2:] -= box[:2]
    return box


def uncrop_boxes_xyxy(boxes: Tensor, crop_box: list[int]) -> Tensor:
    """...x4 boxes from the frame of a crop to the frame of the image."""
    x0, y0 = crop_box[:2]
    return boxes + torch.tensor([x0, y0, x0, y0], device=boxes.device)


def uncrop_points(points: Tensor, crop_box: list[int]) -> Tensor:
    """...x2 points from the frame of a crop to the frame of the image."""
    return points + torch.tensor(crop_box[:2], device=points.device)


def uncrop_masks(masks: Tensor, crop_box: list[int], orig_h: int, orig_w: int) -> Tensor:
    """NxHxW masks of a crop to NxorigHxorigW masks of the image, empty outside the crop."""
    x0, y0, x1, y1 = crop_box
    if (x0, y0, x1, y1) == (0, 0, orig_w, orig_h):
        return masks
    return F.pad(masks, (x0, orig_w - x1, y0, orig_h - y1))


def suppress_duplicates(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression of Nx4 boxes (x0, y0, x1, y1): indices kept, best first."""
    order = torch.argsort(scores, descending=True, stable=True).cpu()
    rank = torch.empty(len(order))
    # OpenCV wants positive scores; only their order matters.
    rank[order] = torch.arange(len(order), 0, -1, dtype=torch.float)
    corners = boxes.double().cpu().numpy()
    as_xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    kept = cv2.dnn.NMSBoxes(as_xywh.tolist(), rank.tolist(), 0.0, iou_threshold)
    return torch.as_tensor(np.asarray(kept, dtype=np.int64).reshape(-1))
