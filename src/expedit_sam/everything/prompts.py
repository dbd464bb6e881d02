"""Where to ask: grids of points, and overlapping crops of the image."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from expedit_sam.errors import InputError


def build_point_grid(n_per_side: int) -> np.ndarray:
    """The centres of n x n equal cells of the unit square, row by row: (n*n)x2 points (x, y)."""
    margin = 1 / (2 * n_per_side)
    centres = np.linspace(margin, 1 - margin, n_per_side)
    x, y = np.meshgrid(centres, centres)
    return np.stack([x, y], axis=-1).reshape(-1, 2)


def build_all_layer_point_grids(
    n_per_side: int, n_layers: int, scale_per_layer: int
) -> list[np.ndarray]:
    """One grid a crop layer, layer i with ``n_per_side / scale_per_layer**i`` points a side.

    Raises:
        InputError: that is no point at all in some layer.
    """
    if scale_per_layer < 1 or n_per_side < scale_per_layer**n_layers:
        raise InputError(
            f"crop_n_points_downscale_factor is {scale_per_layer}; it must be 1 or more and leave "
            f"each of {n_layers} crop layers some of {n_per_side} points a side"
        )
    return [build_point_grid(int(n_per_side / scale_per_layer**i)) for i in range(n_layers + 1)]


def point_grids_of_layers(
    points_per_side: int | None,
    point_grids: list[np.ndarray] | None,
    crop_n_layers: int,
    downscale_factor: int,
) -> list[np.ndarray]:
    """The points of the image and of each layer of crops: those given, or regular grids.

    Raises:
        InputError: not one of the two is given, or a layer has no points.
    """
    if points_per_side is not None and point_grids is None:
        if points_per_side < 1:
            raise InputError(f"points_per_side is {points_per_side}; it must be 1 or more")
        return build_all_layer_point_grids(points_per_side, crop_n_layers, downscale_factor)
    if points_per_side is None and point_grids is not None:
        if len(point_grids) <= crop_n_layers or not all(map(len, point_grids)):
            raise InputError(
                f"point_grids must hold points for the image and for each of {crop_n_layers} "
                "layers of crops"
            )
        return point_grids
    raise InputError("give exactly one of points_per_side and point_grids")


def generate_crop_boxes(
    im_size: tuple[int, ...], n_layers: int, overlap_ratio: float
) -> tuple[list[list[int]], list[int]]:
    """The image and, for layer i from 1 on, 2**i x 2**i overlapping crops of it.

    Arguments:
        im_size: (H, W) of the image.
        n_layers: layers of crops beside the whole image.
        overlap_ratio: overlap of the first layer's crops over the image's shorter side; halved
            with each further layer.

    Returns:
        boxes [x0, y0, x1, y1] and the layer of each.
    """
    height, width = im_size[:2]
    boxes, layers = [[0, 0, width, height]], [0]
    for layer in range(1, n_layers + 1):
        per_side = 2**layer
        overlap = int(overlap_ratio * min(height, width) * (2 / per_side))
        crop_width, crop_height = (
            math.ceil((overlap * (per_side - 1) + length) / per_side) for length in (width, height)
        )
        for column, row in product(range(per_side), repeat=2):
            x0, y0 = column * (crop_width - overlap), row * (crop_height - overlap)
            boxes.append([x0, y0, min(x0 + crop_width, width), min(y0 + crop_height, height)])
            layers.append(layer)
    return boxes, layers


def batch_iterator(batch_size: int, *args: Any) -> Iterator[list[Any]]:
    """Slices of ``batch_size`` of all arguments, which have the same length."""
    if len({len(arg) for arg in args}) != 1:
        raise ValueError("batch_iterator needs arguments of one length")
    for start in range(0, len(args[0]), batch_size):
        yield [arg[start : start + batch_size] for arg in args]
