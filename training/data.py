"""BSDS500 for SAM's training: photos, views of them, human regions, and prompts for regions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageEnhance

# Regions smaller than this share of the photo are not evaluated.
SMALLEST_REGION = 0.001
# Regions smaller than this many label cells (a token's worth) are not trained.
SMALLEST_TRAINED = 64
# A label map has this many cells per low-res logit along each axis.
CELLS_PER_LOGIT = 2
# Network pixels per label cell (a low-res logit spans 4 pixels).
PIXELS_PER_CELL = 4 // CELLS_PER_LOGIT


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
        return self.segmentations.shape[1:]

    def regions(self) -> list[tuple[int, int]]:
        """All (annotator, region number) of at least ``SMALLEST_REGION``."""
        return regions_of(self.segmentations, SMALLEST_REGION * self.segmentations[0].size)


@dataclass(frozen=True)
class View:
    """A part of a photo as the network sees it: cropped, scaled, mirrored, recoloured.

    Attributes:
        top, left, bottom, right: what is seen, in photo pixels.
        scale: network pixels per photo pixel.
        mirrored: left and right exchanged.
        colour: factors of brightness, contrast and saturation.
    """

    top: int
    left: int
    bottom: int
    right: int
    scale: float
    mirrored: bool = False
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)


def read_photos(folder: Path) -> list[Photo]:
    return [
        Photo(path, np.load(path.with_suffix(".npz"))["segmentations"])
        for path in sorted(folder.glob("*.jpg"))
    ]


def regions_of(labels: np.ndarray, least: float) -> list[tuple[int, int]]:
    """(annotator, region number) of each region of ``least`` cells in annotators x h x w labels."""
    return [
        (annotator, number)
        for annotator, one in enumerate(labels)
        for number in np.flatnonzero(np.bincount(one[one >= 0]) >= least).tolist()
    ]


def whole(photo: Photo, side: int) -> View:
    """The photo, its longest side ``side``: what the network sees in use."""
    return View(0, 0, *photo.size, scale=side / max(photo.size))


def random_view(
    photo: Photo, part: tuple[int, int], side: int, random: np.random.Generator
) -> View:
    """A random crop that fills at most ``part`` (height, width) network pixels.

    Where the part is the whole canvas, half of the views are whole photos; else the scale is near
    that of a whole photo on the canvas.
    """
    photo_size = np.array(photo.size)
    scale = side / max(photo.size)
    if min(part) == side:
        share = random.uniform(0.45, 1.0, size=2) if random.random() < 0.5 else 1.0
        extent = (share * photo_size).astype(int)
        scale = side / max(extent)
    else:
        scale *= math.exp(random.uniform(math.log(0.7), math.log(1.4)))
        extent = np.minimum(photo_size, (np.array(part) / scale).astype(int))
    top, left = (int(random.integers(0, slack + 1)) for slack in photo_size - extent)
    colour = tuple(random.uniform(0.6, 1.4, size=3).tolist())
    return View(
        top,
        left,
        top + int(extent[0]),
        left + int(extent[1]),
        float(scale),
        bool(random.random() < 0.5),
        colour if random.random() < 0.8 else (1.0, 1.0, 1.0),
    )


def view_pixels(photo: Photo, view: View) -> np.ndarray:
    """HxWx3 uint8: what the image encoder is given before padding."""
    image = Image.open(photo.path).convert("RGB")
    image = image.crop((view.left, view.top, view.right, view.bottom))
    size = tuple(int(extent * view.scale + 0.5) for extent in image.size)
    image = image.resize(size, Image.Resampling.BILINEAR)
    if view.mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for enhancer, factor in zip(enhancers, view.colour, strict=True):
        if factor != 1.0:
            image = enhancer(image).enhance(factor)
    return np.array(image)


def view_labels(photo: Photo, view: View) -> np.ndarray:
    """Annotators x h x w region numbers of a view, one cell every ``PIXELS_PER_CELL`` pixels."""
    places = []
    for start, stop in ((view.top, view.bottom), (view.left, view.right)):
        logits = round((stop - start) * view.scale / 4)
        cells = (np.arange(logits * CELLS_PER_LOGIT) + 0.5) * PIXELS_PER_CELL / view.scale
        places.append(np.minimum(start + cells.astype(int), stop - 1))
    labels = photo.segmentations[:, places[0]][:, :, places[1]]
    return labels[:, :, ::-1] if view.mirrored else labels


def complete(labels: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    """A piece of annotators x h x w labels, -1 where a region has more than a quarter outside it.

    (If no region is complete, all stay.)
    """
    piece = labels[:, rows, columns].astype(np.int64)
    result = np.full_like(piece, -1)
    for one, inside, kept in zip(labels, piece, result, strict=True):
        inner = np.bincount(inside.ravel(), minlength=int(one.max()) + 1)
        whole = np.flatnonzero(inner >= 0.75 * np.bincount(one.ravel(), minlength=len(inner)))
        chosen = np.isin(inside, whole)
        kept[chosen] = inside[chosen]
    return result if regions_of(result, SMALLEST_TRAINED) else piece


@dataclass(frozen=True)
class Regions:
    """Regions of one view, to be clicked.

    Attributes:
        cells: P x h x w bool, on the label grid.
        targets: P x h/2 x w/2 bool, on the low-res grid.
    """

    cells: np.ndarray
    targets: np.ndarray


def sample_regions(labels: np.ndarray, count: int, random: np.random.Generator) -> Regions:
    """``count`` regions, drawn uniformly from those of all annotators."""
    choice = regions_of(labels, SMALLEST_TRAINED)
    drawn = random.choice(len(choice), size=count, replace=len(choice) < count)
    cells = np.stack([labels[choice[i][0]] == choice[i][1] for i in drawn])
    cut = cells.reshape(count, cells.shape[1] // 2, 2, cells.shape[2] // 2, 2)
    return Regions(cells, cut.sum(axis=(2, 4)) >= 2)


def random_click(mask: np.ndarray, random: np.random.Generator) -> tuple[float, float]:
    """(x, y) in cells, uniform over an h x w mask with at least one cell."""
    place = random.choice(np.flatnonzero(mask))
    return float(place % mask.shape[1]), float(place // mask.shape[1])


def most_interior_click(mask: np.ndarray) -> tuple[float, float]:
    """(x, y) in cells: farthest from what is outside the mask or the image."""
    padded = np.pad(mask.astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(distance.argmax(), distance.shape)
    return float(x), float(y)


def box_of(mask: np.ndarray) -> tuple[float, float, float, float]:
    """(x0, y0, x1, y1) in cells, the last row and column included."""
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(xs[0]), float(ys[0]), float(xs[-1]), float(ys[-1])


def jittered_box(mask: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The mask's box, each coordinate moved by up to a tenth of its side (SAM, appendix A)."""
    box = np.array(box_of(mask))
    sides = np.tile(box[2:] - box[:2], 2)
    return box + np.clip(random.normal(0, 0.1, size=4) * sides, -10, 10)
