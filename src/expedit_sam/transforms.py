"""Between image and network coordinates: the longest side is scaled to a fixed length."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor


class ResizeLongestSide:
    """Scale images, points and boxes so that the longest side has a given length.

    Arguments:
        target_length: length of the longest side after scaling, in pixels.
    """

    def __init__(self, target_length: int) -> None:
        self.target_length = target_length

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        """Resize an HxWx3 uint8 image with Pillow's antialiased bilinear filter."""
        height, width = self._size(image.shape[:2])
        return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))

    def apply_coords(self, coords: np.ndarray, original_size: tuple[int, ...]) -> np.ndarray:
        """Scale ...x2 points (x, y) of an image of ``original_size`` (H, W)."""
        scale_x, scale_y = self._scale(original_size)
        return np.asarray(coords, dtype=float) * (scale_x, scale_y)

    def apply_boxes(self, boxes: np.ndarray, original_size: tuple[int, ...]) -> np.ndarray:
        """Scale Bx4 boxes (x0, y0, x1, y1) of an image of ``original_size`` (H, W)."""
        return self.apply_coords(np.reshape(boxes, (-1, 2, 2)), original_size).reshape(-1, 4)

    def apply_image_torch(self, image: Tensor) -> Tensor:
        """Resize BxCxHxW float images; close to ``apply_image`` but not equal to it."""
        from torch.nn import functional as F  # only here: other predictors do without PyTorch

        size = self._size(image.shape[-2:])
        return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)

    def apply_coords_torch(self, coords: Tensor, original_size: tuple[int, ...]) -> Tensor:
        """Scale ...x2 points (x, y) of an image of ``original_size`` (H, W)."""
        coords = coords.float()
        return coords * coords.new_tensor(self._scale(original_size))

    def apply_boxes_torch(self, boxes: Tensor, original_size: tuple[int, ...]) -> Tensor:
        """Scale Bx4 boxes (x0, y0, x1, y1) of an image of ``original_size`` (H, W)."""
        return self.apply_coords_torch(boxes.reshape(-1, 2, 2), original_size).reshape(-1, 4)

    @staticmethod
    def get_preprocess_shape(oldh: int, oldw: int, long_side_length: int) -> tuple[int, int]:
        """Height and width after scaling, each at least one pixel."""
        scale = long_side_length / max(oldh, oldw)
        return max(1, int(oldh * scale + 0.5)), max(1, int(oldw * scale + 0.5))

    def _size(self, original_size: tuple[int, ...]) -> tuple[int, int]:
        return self.get_preprocess_shape(original_size[0], original_size[1], self.target_length)

    def _scale(self, original_size: tuple[int, ...]) -> tuple[float, float]:
        height, width = self._size(original_size)
        return width / original_size[1], height / original_size[0]


def upscale_logits(
    logits: np.ndarray, side: int, input_size: tuple[int, ...], size: tuple[int, ...]
) -> np.ndarray:
    """Low-res logits to the image: scale to the padded square, drop the padding, scale again.

    Arguments:
        logits: ...xhxw float32.
        side: side of the network's square input in pixels.
        input_size: (H, W) of the resized image before padding.
        size: (H, W) of the image.

    Returns:
        ...xHxW float32; both scalings are bilinear.
    """
    low = logits.reshape(-1, *logits.shape[-2:])
    upscaled = np.empty((len(low), *size), np.float32)
    for one, whole in zip(low, upscaled, strict=True):
        _upscale(one, side, input_size, whole)
    return upscaled.reshape(*logits.shape[:-2], *size)


def upscale_masks(
    logits: np.ndarray,
    side: int,
    input_size: tuple[int, ...],
    size: tuple[int, ...],
    threshold: float,
) -> np.ndarray:
    """``upscale_logits(...) > threshold``, a mask at a time to keep its logits in a cache.

    Arguments:
        logits, side, input_size, size: see ``upscale_logits``.
        threshold: logits above it belong to a mask.

    Returns:
        ...xHxW booleans.
    """
    low = logits.reshape(-1, *logits.shape[-2:])
    masks, whole = np.empty((len(low), *size), bool), np.empty(size, np.float32)
    for one, mask in zip(low, masks, strict=True):
        _upscale(one, side, input_size, whole)
        np.greater(whole, threshold, out=mask)
    return masks.reshape(*logits.shape[:-2], *size)


def seen_logits(
    low_res_size: tuple[int, ...], side: int, input_size: tuple[int, ...]
) -> tuple[int, int]:
    """How many rows and columns of low-res logits, from the upper left, the image lies in.

    Arguments:
        low_res_size: (h, w) of the low-res logits of the network's square input.
        side: side of that input in pixels.
        input_size: (H, W) of the resized image before padding.
    """
    # Bilinear scaling reads one row and column beyond.
    rows, columns = (
        min(low, math.ceil(extent * low / side) + 1)
        for low, extent in zip(low_res_size, input_size, strict=True)
    )
    return rows, columns


def _upscale(low: np.ndarray, side: int, input_size: tuple[int, ...], whole: np.ndarray) -> None:
    """Scale hxw logits into the HxW array ``whole`` (see ``upscale_logits``)."""
    rows, columns = seen_logits(low.shape, side, input_size)
    seen = np.ascontiguousarray(low[:rows, :columns])
    down, across = (side / extent for extent in low.shape)
    square = cv2.resize(seen, None, fx=across, fy=down, interpolation=cv2.INTER_LINEAR)
    inside = square[: input_size[0], : input_size[1]]
    cv2.resize(inside, whole.shape[::-1], dst=whole, interpolation=cv2.INTER_LINEAR)
