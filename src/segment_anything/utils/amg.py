"""The helpers of segment everything, under the original's names."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from expedit_sam.everything.filters import (
    batched_mask_to_box,
    box_xyxy_to_xywh,
    calculate_stability_score,
    is_box_near_crop_edge,
    uncrop_boxes_xyxy,
    uncrop_masks,
    uncrop_points,
)
from expedit_sam.everything.mask_data import MaskData
from expedit_sam.everything.prompts import (
    batch_iterator,
    build_all_layer_point_grids,
    build_point_grid,
    generate_crop_boxes,
)
from expedit_sam.everything.regions import remove_small_regions
from expedit_sam.everything.rle import area, decode_mask, mask_to_uncompressed, to_coco

__all__ = [
    "MaskData",
    "area_from_rle",
    "batch_iterator",
    "batched_mask_to_box",
    "box_xyxy_to_xywh",
    "build_all_layer_point_grids",
    "build_point_grid",
    "calculate_stability_score",
    "coco_encode_rle",
    "generate_crop_boxes",
    "is_box_near_crop_edge",
    "mask_to_rle_pytorch",
    "remove_small_regions",
    "rle_to_mask",
    "uncrop_boxes_xyxy",
    "uncrop_masks",
    "uncrop_points",
]


def mask_to_rle_pytorch(tensor: Tensor) -> list[dict[str, Any]]:
    """BxHxW boolean masks to uncompressed RLE."""
    return [mask_to_uncompressed(mask) for mask in tensor.cpu().numpy()]


def rle_to_mask(rle: dict[str, Any]) -> np.ndarray:
    """Uncompressed RLE, or COCO's, to an HxW boolean mask."""
    return decode_mask(rle)


def area_from_rle(rle: dict[str, Any]) -> int:
    """Pixels of a mask in uncompressed RLE, or COCO's."""
    return area(rle)


def coco_encode_rle(uncompressed_rle: dict[str, Any]) -> dict[str, Any]:
    """Uncompressed RLE to COCO RLE with ``counts`` as text, which json can hold."""
    return to_coco(uncompressed_rle)
