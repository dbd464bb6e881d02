"""Prompts that a person might give for a region whose true mask is known."""

from __future__ import annotations

import cv2
import numpy as np

from expedit_sam.errors import InputError

# How many clicks each kind stands for.
CLICKS = {"click": 1, "clicks3": 3, "clicks5": 5}
BOXES = ("box", "jittered-box")
EVERYTHING = "everything"
KINDS = (*CLICKS, *BOXES, EVERYTHING)

_BOX_NOISE = 0.1  # of the box's side (Segment Anything, appendix A)
_MOST_BOX_NOISE = 20  # pixels


def check_kinds(names: list[str]) -> list[str]:
    """The kinds themselves, in the order of ``KINDS``.

    Raises:
        InputError: one is unknown, or there is none.
    """
    if unknown := [name for name in names if name not in KINDS]:
        raise InputError(f"no prompt is called {unknown[0]!r}: choose one of {', '.join(KINDS)}")
    if not names:
        raise InputError(f"no prompts are asked for: choose one of {', '.join(KINDS)}")
    return [kind for kind in KINDS if kind in names]


def interior_point(mask: np.ndarray) -> tuple[int, int]:
    """The pixel (x, y) of an HxW mask that is farthest from its outside and the image's edge."""
    distance = _depth(mask)
    y, x = np.unravel_index(distance.argmax(), distance.shape)
    return int(x), int(y)


def correcting_click(mask: np.ndarray, truth: np.ndarray) -> tuple[tuple[int, int], int]:
    """A click where a predicted HxW mask is most wrong.

    Source: Segment Anything, appendix D.1: the point of the error that is farthest from the
    error's boundary.

    Returns:
        the point (x, y), and 1 where something is missing, 0 where something is too much. An
        empty mask gets the most interior point of the truth, and so does a perfect one.
    """
    missing, surplus = truth & ~mask, mask & ~truth
    if not (missing.any() or surplus.any()):
        return interior_point(truth), 1
    if _depth(missing).max() >= _depth(surplus).max():
        return interior_point(missing), 1
    return interior_point(surplus), 0


def bounding_box(mask: np.ndarray) -> np.ndarray:
    """The box (x0, y0, x1, y1) of an HxW mask that is not empty; its last pixels are x1 and y1."""
    xs, ys = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return np.array([xs[0], ys[0], xs[-1], ys[-1]], dtype=float)


def jittered_boxes(boxes: np.ndarray, noise: np.ndarray, image_size: tuple[int, ...]) -> np.ndarray:
    """Boxes as a hasty hand draws them, each coordinate moved by about a tenth of its side.

    Arguments:
        boxes: Px4 (x0, y0, x1, y1).
        noise: Px4 draws from a standard normal distribution.
        image_size: (H, W), which the boxes stay in.
    """
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    moved = boxes + np.clip(_BOX_NOISE * noise * sides, -_MOST_BOX_NOISE, _MOST_BOX_NOISE)
    corners = np.sort(moved.reshape(-1, 2, 2), axis=1)
    return corners.clip(0, (image_size[1] - 1, image_size[0] - 1)).reshape(-1, 4)


def _depth(mask: np.ndarray) -> np.ndarray:
    """HxW distances to the mask's outside; beyond the image's edge all is outside."""
    padded = np.pad(mask.astype(np.uint8), 1)
    return cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
