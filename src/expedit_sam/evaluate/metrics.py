"""How well masks agree, and how sure a mean over images is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from pycocotools import mask as coco

from expedit_sam.everything.rle import Rle

_BOUNDARY_TOLERANCE = 0.0075  # of the image's diagonal, as the BSDS benchmark has it
_RESAMPLINGS = 2000
_INTERVAL = (2.5, 97.5)  # percentiles


def iou(masks: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union (0 to 1) of ...xHxW booleans that broadcast; 1 if both are empty."""
    union = (masks | others).sum(axis=(-2, -1))
    shared = (masks & others).sum(axis=(-2, -1))
    return np.where(union > 0, shared / np.maximum(union, 1), 1.0)


def boundary_f(mask: np.ndarray, truth: np.ndarray) -> float:
    """Boundary F-score, 0 to 1, of two HxW boolean masks (Perazzi et al., DAVIS, section 4).

    The harmonic mean of how much of each outline lies near the other one; the image's edge is no
    outline.
    """
    outlines = [_outline(mask), _outline(truth)]
    radius = math.ceil(_BOUNDARY_TOLERANCE * math.hypot(*mask.shape))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    near = [cv2.dilate(outline, disc) for outline in outlines]
    lengths = [int(outline.sum()) for outline in outlines]
    if not all(lengths):
        return float(not any(lengths))
    precision = (outlines[0] & near[1]).sum() / lengths[0]
    recall = (outlines[1] & near[0]).sum() / lengths[1]
    return float(2 * precision * recall / max(precision + recall, 1e-9))


def best_overlaps(truth: Sequence[Rle], masks: Sequence[Rle]) -> np.ndarray:
    """For each true mask the IoU of the mask that covers it best, 0 where there are no masks."""
    if not truth or not masks:
        return np.zeros(len(truth))
    return coco.iou(list(masks), list(truth), [0] * len(truth)).max(axis=0)


@dataclass(frozen=True)
class Mean:
    """A mean over all regions and its 95 % interval over images."""

    value: float
    low: float
    high: float


def mean_over_images(values: Sequence[Sequence[float]], seed: int) -> Mean:
    """The mean of all values, and a bootstrap interval that draws whole images.

    Arguments:
        values: one list an image; at least one holds a value.
        seed: of the draws; with one seed, the same images are drawn for every metric.
    """
    sums = np.array([np.sum(one) for one in values], dtype=float)
    counts = np.array([len(one) for one in values], dtype=float)
    drawn = np.random.default_rng(seed).integers(len(values), size=(_RESAMPLINGS, len(values)))
    drawn_counts = counts[drawn].sum(axis=1)
    means = sums[drawn].sum(axis=1)[drawn_counts > 0] / drawn_counts[drawn_counts > 0]
    low, high = np.percentile(means, _INTERVAL)
    return Mean(float(sums.sum() / counts.sum()), float(low), float(high))


def _outline(mask: np.ndarray) -> np.ndarray:
    """HxW uint8, 1 where a pixel of the mask has a neighbour inside the image that is not in it."""
    pixels = mask.astype(np.uint8)
    return np.asarray(pixels - cv2.erode(pixels, np.ones((3, 3), np.uint8)))
