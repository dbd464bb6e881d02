"""How well an exported network's masks agree with those of the network itself."""

from __future__ import annotations

import math
from collections.abc import Iterable

import cv2
import numpy as np

from expedit_sam.base_predictor import BasePredictor
from expedit_sam.evaluate.metrics import iou
from expedit_sam.everything.prompts import build_point_grid


def agreement(
    reference: BasePredictor,
    other: BasePredictor,
    images: Iterable[np.ndarray],
    points_per_side: int = 6,
) -> float:
    """Mean IoU, 0 to 1, between the masks of two predictors, over single points and images.

    Arguments:
        reference: decides which mask of each point is compared, the one it thinks best.
        other: a predictor of a network with the same outputs.
        images: HxWx3 uint8, at least one.
        points_per_side: points asked along each side of an image.
    """
    grid = build_point_grid(points_per_side)
    overlaps = []
    for image in images:
        reference.set_image(image)
        other.set_image(image)
        for point in grid * (image.shape[1], image.shape[0]):
            prompt = (point[None], np.array([1]))
            expected, scores, _ = reference.predict(*prompt)
            found, _, _ = other.predict(*prompt)
            best = int(scores.argmax())
            overlaps.append(iou(found[best], expected[best]))
    return float(np.mean(overlaps))


def drawn_picture() -> np.ndarray:
    """480x640x3 uint8: round and square things on a shaded ground, the same at every call."""
    height, width = 480, 640
    random = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    ground = 90 + 60 * np.sin(x / 90)[..., None] * np.cos(y / 70)[..., None] * np.ones(3)
    picture = np.ascontiguousarray(ground.astype(np.uint8))
    for _ in range(12):
        color = random.integers(0, 256, 3).tolist()
        centre = (int(random.integers(width)), int(random.integers(height)))
        size = int(random.integers(20, math.ceil(height / 5)))
        cv2.circle(picture, centre, size, color, -1)
        corner = (int(random.integers(width)), int(random.integers(height)))
        cv2.rectangle(picture, corner, (corner[0] + size, corner[1] + 2 * size), color[::-1], -1)
    return (picture + random.normal(0, 5, picture.shape)).clip(0, 255).astype(np.uint8)
