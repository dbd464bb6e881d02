"""What a step is trained on: a part of the canvas with a view of a photo, and cuts of it."""

from __future__ import annotations

from dataclasses import dataclass

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
    photo = photos[int(random.integers(len(photos)))]
    part = draw_part(sam, whole_share, random)
    size = (part.height * patch, part.width * patch)
    view = data.random_view(photo, size, side, random)
    seen = data.view_pixels(photo, view)[: size[0], : size[1]]
    pixels = torch.from_numpy(seen).permute(2, 0, 1).to(sam.device)
    pixels = (pixels - sam.pixel_mean) / sam.pixel_std
    padding = (0, size[1] - seen.shape[1], 0, size[0] - seen.shape[0])
    labels = data.view_labels(photo, view)[:, : size[0] // 2, : size[1] // 2]
    return Sample(part, F.pad(pixels, padding)[None], labels)


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
