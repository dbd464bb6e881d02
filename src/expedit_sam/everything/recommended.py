"""Which settings of everything mode suit which network."""

from __future__ import annotations

from typing import Any

# Of the official networks: the defaults of SamAutomaticMaskGenerator, which were chosen for vit_h.
_OFFICIAL = {
    "points_per_side": 32,
    "pred_iou_thresh": 0.88,
    "stability_score_thresh": 0.95,
    "min_mask_region_area": 0,
}
RECOMMENDED: dict[str, dict[str, Any]] = {
    # Its predicted IoU and its logits are lower than the official networks' (see the model card).
    "vit_s": {
        "points_per_side": 24,
        "pred_iou_thresh": 0.55,
        "stability_score_thresh": 0.5,
        "stability_score_offset": 0.5,
        "min_mask_region_area": 300,
    },
    "vit_b": _OFFICIAL,
    "vit_l": _OFFICIAL,
    "vit_h": _OFFICIAL,
}
