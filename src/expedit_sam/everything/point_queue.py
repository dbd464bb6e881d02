"""Which points of a grid are asked, and in which order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from expedit_sam.everything.prompts import batch_iterator
from expedit_sam.everything.rle import Rle, area, decode_mask


class PointQueue:
    """Points to ask, a batch at a time; if wanted, the finer ones only where no mask is yet.

    Arguments:
        points: Nx2 (x, y) in pixels of a crop, in rows of a square grid where N is a square.
        batch_size: points of a batch.
        largest_area: in pixels, of a mask whose points may be skipped; 0 asks all points.
        corner: (x, y) of the crop in the image.
        image_size: (H, W) of the image.
        advance: called after each batch with the number of points that were asked or skipped.
    """

    def __init__(
        self,
        points: np.ndarray,
        batch_size: int,
        largest_area: float,
        corner: tuple[int, int],
        image_size: tuple[int, ...],
        advance: Callable[[int], object] = lambda points: None,
    ) -> None:
        coarse = _coarse(len(points)) if largest_area > 0 else np.ones(len(points), bool)
        self._first, self._others = points[coarse], points[~coarse]
        self._batch_size, self._largest_area, self._corner = batch_size, largest_area, corner
        self._covered = np.zeros(image_size[:2], bool)
        self._advance = advance

    def __iter__(self) -> Iterator[np.ndarray]:
        for (batch,) in batch_iterator(self._batch_size, self._first):
            yield batch
            self._advance(len(batch))
        others = self._others
        while len(others):
            # Again before each batch, since the masks of the last one cover more.
            left = others[~self._is_covered(others)]
            batch, left = left[: self._batch_size], left[self._batch_size :]
            if len(batch):
                yield batch
            self._advance(len(others) - len(left))
            others = left

    def cover(self, masks: Sequence[Rle]) -> None:
        """Skip the points in these masks of the image, unless a mask is too large to count."""
        for mask in masks:
            if area(mask) <= self._largest_area:
                self._covered |= decode_mask(mask)

    def _is_covered(self, points: np.ndarray) -> np.ndarray:
        height, width = self._covered.shape
        # A point may lie on the right or bottom edge, which is beyond the last pixel.
        x, y = np.minimum((points + self._corner).astype(int), (width - 1, height - 1)).T
        return self._covered[y, x]


def _coarse(number: int) -> np.ndarray:
    """Which points are asked first: every second of every second row of a square grid.

    Where the number is no square, every fourth point.
    """
    side = math.isqrt(number)
    places = np.arange(number)
    if side * side != number:
        return places % 4 == 0
    return (places // side % 2 == 0) & (places % side % 2 == 0)
