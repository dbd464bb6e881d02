"""What a step is trained on: a part of the canvas with a view of a photo, and cuts of it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import data
import numpy as np
import torch
from encoder import Part
from torch import Tensor
from torch.nn import functional as F

from expedit_sam.model.image_encoder import clustering_window
from expedit_sam.model.sam import Sam

# Windows along each side of the part of the canvas that most steps train on.
PART_WINDOWS = 2
# Tokens along the shortest side of a cut, and label cells along each side of a token.
SHORTEST_CUT = 8
CELLS_PER_TOKEN = 8
# This share of views gets up to so many regions of another photo, none larger than a share of it.
PASTED_SHARE = 0.5
MOST_PASTED = 8
LARGEST_PASTED = 0.1


@dataclass
class Sample:
    """One image of a step.

    Attributes:
        part: where on the canvas it stands.
        pixels: 1x3x16hx16w, normalised and padded.
        labels: annotators x h x w region numbers, on the label grid.
    """

    part: Part
    pixels: Tensor
    labels: np.ndarray


def draw_part(sam: Sam, whole_share: float, random: np.random.Generator) -> Part:
    """The whole canvas, or ``PART_WINDOWS`` windows along each side."""
    encoder = sam.image_encoder
    grid = encoder.pos_embed.shape[1]
    if random.random() < whole_share:
        return Part(0, 0, grid, grid)
    window = clustering_window(encoder.blocks)
    starts = range(0, grid - window, window)
    top, left = (window * int(random.integers(len(starts))) for _ in range(2))
    side = PART_WINDOWS * window
    return Part(top, left, min(side, grid - top), min(side, grid - left))


def draw_sample(
    sam: Sam, photos: list[data.Photo], whole_share: float, random: np.random.Generator
) -> Sample:
    side, patch = sam.image_encoder.img_size, sam.image_encoder.patch_embed.proj.stride[0]
    part = draw_part(sam, whole_share, random)
    size = (part.height * patch, part.width * patch)
    seen, labels = draw_view(photos, size, side, random)
    if random.random() < PASTED_SHARE:
        paste(seen, labels, *draw_view(photos, size, side, random), random)
    pixels = torch.from_numpy(seen).permute(2, 0, 1).to(sam.device)
    pixels = (pixels - sam.pixel_mean) / sam.pixel_std
    padding = (0, size[1] - seen.shape[1], 0, size[0] - seen.shape[0])
    return Sample(part, F.pad(pixels, padding)[None], labels)


def draw_view(
    photos: list[data.Photo], size: tuple[int, int], side: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """HxWx3 pixels and annotators x H/2 x W/2 region numbers of at most ``size``."""
    photo = photos[int(random.integers(len(photos)))]
    view = data.random_view(photo, size, side, random)
    pixels = data.view_pixels(photo, view)[: size[0], : size[1]]
    labels = data.view_labels(photo, view)[:, : size[0] // 2, : size[1] // 2]
    return pixels, labels.astype(np.int64)


def paste(
    pixels: np.ndarray,
    labels: np.ndarray,
    donor_pixels: np.ndarray,
    donor_labels: np.ndarray,
    random: np.random.Generator,
) -> None:
    """Put a few regions of another photo anywhere into a view (Ghiasi et al., 2012.07177)."""
    annotator = donor_labels[int(random.integers(len(donor_labels)))]
    regions = data.regions_of(annotator[None], data.SMALLEST_TRAINED)
    # A photo may end before the labels' last cell does.
    rows, columns = np.minimum(labels.shape[1:], np.array(pixels.shape[:2]) // 2)
    number = int(labels.max())
    for i in random.permutation(len(regions))[: int(random.integers(1, MOST_PASTED + 1))]:
        mask = annotator == regions[i][1]
        x0, y0, x1, y1 = (int(value) for value in data.box_of(mask))
        mask = mask[y0 : y1 + 1, x0 : x1 + 1]
        height, width = mask.shape
        if mask.sum() > LARGEST_PASTED * labels[0].size or height > rows or width > columns:
            continue
        top, left = (int(random.integers(0, room + 1)) for room in (rows - height, columns - width))
        number += 1
        labels[:, top : top + height, left : left + width][:, mask] = number
        source = donor_pixels[2 * y0 : 2 * (y1 + 1), 2 * x0 : 2 * (x1 + 1)]
        fine = mask.repeat(2, axis=0).repeat(2, axis=1)[: len(source), : source.shape[1]]
        share = cv2.GaussianBlur(fine.astype(np.float32), (0, 0), 1.0)[..., None]  # softens edges
        below = pixels[2 * top : 2 * top + len(fine), 2 * left : 2 * left + fine.shape[1]]
        below[:] = (share * source + (1 - share) * below + 0.5).astype(np.uint8)


def draw_cut(labels: np.ndarray, random: np.random.Generator) -> Part:
    """A square of tokens around a region drawn from all that ``labels`` show, within them.

    Small regions are most of all regions, and in a cut they weigh as large ones do.
    """
    extents = [-(-extent // CELLS_PER_TOKEN) for extent in labels.shape[1:]]
    (cells,) = data.sample_regions(labels, 1, random).cells
    box = np.array(data.box_of(cells))[[1, 0, 3, 2]] // CELLS_PER_TOKEN
    starts, stops = box[:2].astype(int), box[2:].astype(int) + 1
    longest = min(extents)
    shortest = min(max(SHORTEST_CUT, *(stops - starts)), longest)
    side = round(shortest * (longest / shortest) ** random.random() ** 2)
    top, left = (
        int(random.integers(max(0, stop - side), max(0, min(start, extent - side)) + 1))
        if stop - start <= side
        else int(random.integers(0, extent - side + 1))
        for start, stop, extent in zip(starts, stops, extents, strict=True)
    )
    return Part(top, left, side, side)
