"""Low-res logits to masks of the whole image, one at a time, so that each stays in the cache."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from expedit_sam.everything.filters import is_box_near_crop_edge, uncrop_masks
from expedit_sam.everything.rle import Rle, encode_transposed
from expedit_sam.transforms import upscale_logits


@dataclass(frozen=True)
class FoundMask:
    """A mask worth keeping.

    Attributes:
        stability: its stability score.
        box: (x0, y0, x1, y1) of its outermost pixels, in the crop's frame; zeros where empty.
        rle: the mask in the image.
    """

    stability: float
    box: tuple[int, int, int, int]
    rle: Rle


@dataclass(frozen=True)
class MaskMaker:
    """How the low-res logits of a crop become masks, and which of them are kept.

    Attributes:
        side: side of the network's square input in pixels.
        input_size: (H, W) of the crop as the network saw it, before padding.
        crop_box: (x0, y0, x1, y1) of the crop in the image.
        image_size: (H, W) of the image.
        threshold: logits above it belong to the mask.
        stability_offset: shift of the threshold that the stability score is measured with.
        least_stability: masks of a lower stability score (0 to 1) are dropped; 0 keeps all.
    """

    side: int
    input_size: tuple[int, int]
    crop_box: tuple[int, int, int, int]
    image_size: tuple[int, int]
    threshold: float
    stability_offset: float
    least_stability: float

    def make(self, low_res: np.ndarray) -> FoundMask | None:
        """The mask of 4hx4w low-res logits; None where it is unstable or cut off by the crop."""
        x0, y0, x1, y1 = self.crop_box
        # Transposed from the start: run-length encoding goes down the columns.
        logits = upscale_logits(low_res.T, self.side, self.input_size[::-1], (x1 - x0, y1 - y0))
        stability = self._stability(logits)
        if self.least_stability > 0 and not stability >= np.float32(self.least_stability):
            return None
        mask = (logits > self.threshold).view(np.uint8)
        top, left, height, width = cv2.boundingRect(mask)
        box = (left, top, left + max(width - 1, 0), top + max(height - 1, 0))
        whole = [0, 0, self.image_size[1], self.image_size[0]]
        if is_box_near_crop_edge(np.array([box]), list(self.crop_box), whole)[0]:
            return None
        whole_mask = uncrop_masks(mask, [y0, x0, y1, x1], *self.image_size[::-1])
        return FoundMask(float(stability), box, encode_transposed(whole_mask))

    def _stability(self, logits: np.ndarray) -> np.float32:
        """``calculate_stability_score`` of one mask."""
        strict, lenient = (
            np.count_nonzero(logits > self.threshold + shift)
            for shift in (self.stability_offset, -self.stability_offset)
        )
        return np.float32(strict / lenient if lenient else np.nan)
