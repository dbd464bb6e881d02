"""Between image and network coordinates: the longest side is scaled to a fixed length."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F


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
        size = self._size(image.shape[-2:])
        return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)

    def apply_coords_torch(self, coords: Tensor, original_size: tuple[int, ...]) -> Tensor:
        """Scale ...x2 points (x, y) of an image of ``original_size`` (H, W)."""
        return coords.float() * torch.tensor(self._scale(original_size), device=coords.device)

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
