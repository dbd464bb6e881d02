"""Two masks of the same thing: where they differ."""

from __future__ import annotations

import numpy as np

ONLY_FIRST = (0, 114, 178)  # blue and orange, which colour-blind people tell apart too
ONLY_SECOND = (230, 120, 0)
_BOTH = (170, 170, 170)


def difference(image: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Where two masks differ: HxWx3 uint8.

    The picture in pale grey, what both cover in grey, what only one covers in that one's colour.
    """
    grey = image.mean(axis=2, keepdims=True) * 0.25 + 191
    picture = np.repeat(grey, 3, axis=2).astype(np.uint8)
    picture[first & second] = _BOTH
    picture[first & ~second] = ONLY_FIRST
    picture[second & ~first] = ONLY_SECOND
    return picture
