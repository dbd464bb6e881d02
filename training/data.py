"""BSDS500: photos, human regions, and the click that a region is evaluated with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

# Regions smaller than this share of the photo are not evaluated.
SMALLEST_REGION = 0.001


@dataclass(frozen=True)
class Photo:
    """A photo and what several people saw in it.

    Attributes:
        path: the jpg file.
        segmentations: annotators x H x W region numbers.
    """

    path: Path
    segmentations: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.segmentations.shape[1:]

    def pixels(self) -> Image.Image:
        return Image.open(self.path).convert("RGB")

    def regions(self) -> list[tuple[int, int]]:
        """All (annotator, region number) of at least ``SMALLEST_REGION``."""
        least = SMALLEST_REGION * self.segmentations[0].size
        return [
            (annotator, number)
            for annotator, labels in enumerate(self.segmentations)
            for number in np.flatnonzero(np.bincount(labels.ravel()) >= least).tolist()
        ]


def read_photos(folder: Path) -> list[Photo]:
    """The photos NAME.jpg of a folder with their regions NAME.npz, in order of their names."""
    paths = sorted(folder.glob("*.jpg"))
    if not paths:
        raise SystemExit(f"no photos in {folder}: --data names the folder that holds bsds500/")
    return [Photo(path, np.load(path.with_suffix(".npz"))["segmentations"]) for path in paths]


def network_pixels(photo: Photo, side: int) -> np.ndarray:
    """HxWx3 uint8, the longest side ``side``: what the image encoder is given before padding."""
    image = photo.pixels()
    scale = side / max(image.size)
    size = tuple(int(extent * scale + 0.5) for extent in image.size)
    return np.array(image.resize(size, Image.Resampling.BILINEAR))


def most_interior_click(mask: np.ndarray) -> tuple[float, float]:
    """(x, y) in pixels: farthest from what is outside the HxW mask or the image."""
    padded = np.pad(mask.astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(distance.argmax(), distance.shape)
    return float(x), float(y)
