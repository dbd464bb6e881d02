"""Candidates for what was clicked, and which mask lies under a place of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from expedit_sam.demo.clicks import Clicks
from expedit_sam.demo.networks import Encoding
from expedit_sam.draw import binary_mask


@dataclass(frozen=True)
class Candidates:
    """Three masks that the clicks may mean, best first.

    Attributes:
        masks: 3xHxW booleans.
        scores: 3 predicted IoUs.
        logits: 3x4hx4w low-res logits.
    """

    masks: np.ndarray
    scores: np.ndarray
    logits: np.ndarray


def candidates(encoding: Encoding, clicks: Clicks) -> Candidates | None:
    """The masks of a prompt; None where there is none yet."""
    if not clicks.is_prompt:
        return None
    points, labels = clicks.points, clicks.labels
    masks, scores, logits = encoding.predictor.predict(
        points if len(points) else None, labels if len(labels) else None, clicks.box
    )
    order = scores.argsort()[::-1]
    return Candidates(masks[order], scores[order], logits[order])


def full_size_mask(encoding: Encoding, logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The 4hx4w low-res logits of one mask as HxW booleans of the size asked for."""
    predictor = encoding.predictor
    low_res = torch.as_tensor(logits, device=predictor.device)[None, None]
    upscaled = predictor.model.postprocess_masks(low_res, predictor.input_size, size)
    return (upscaled[0, 0] > predictor.model.mask_threshold).cpu().numpy()


def mask_at(records: Sequence[dict[str, Any]], x: int, y: int) -> int | None:
    """Index of the smallest mask that covers a pixel: the one that ``overlay`` shows on top."""
    covering = [
        index
        for index, record in enumerate(records)
        if _box_holds(record["bbox"], x, y) and binary_mask(record)[y, x]
    ]
    return min(covering, key=lambda index: records[index]["area"], default=None)


def _box_holds(box: Sequence[float], x: int, y: int) -> bool:
    left, top, width, height = box
    return left <= x <= left + width and top <= y <= top + height
