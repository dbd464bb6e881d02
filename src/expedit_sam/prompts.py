"""Prompts as people write them, in text and in files, turned into what a predictor takes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from expedit_sam.errors import InputError
from expedit_sam.images import read_image
from expedit_sam.transforms import ResizeLongestSide

_CERTAIN = 8.0  # the logit of a pixel that a drawn mask covers; networks give about as much


def parse_points(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Points written "X,Y" or "X,Y,LABEL", where label 1 includes (the default) and 0 excludes.

    Returns:
        Nx2 points (x, y) in pixels, and N labels.

    Raises:
        InputError: a text is no such point.
    """
    points, labels = [], []
    for text in texts:
        numbers = _numbers(text)
        if len(numbers) not in (2, 3):
            raise InputError(
                f"point {text!r} is not X,Y or X,Y,LABEL: write for instance 320,200,1"
            )
        x, y, label = (*numbers, 1.0)[:3]
        if label not in (0, 1):
            raise InputError(f"point {text!r} has a label other than 1 (include) and 0 (exclude)")
        points.append((x, y))
        labels.append(int(label))
    return np.array(points, dtype=float).reshape(-1, 2), np.array(labels, dtype=int)


def parse_box(text: str) -> np.ndarray:
    """The box (x0, y0, x1, y1), in pixels, of a text "X0,Y0,X1,Y1".

    Raises:
        InputError: the text is no such box.
    """
    box = _numbers(text)
    if len(box) != 4:
        raise InputError(f"box {text!r} is not X0,Y0,X1,Y1: write for instance 40,30,560,390")
    if not (box[0] < box[2] and box[1] < box[3]):
        raise InputError(f"box {text!r} is empty: the top left corner comes first, X0<X1 and Y0<Y1")
    return np.array(box)


def check_inside(points: np.ndarray, image_size: tuple[int, ...], name: str) -> None:
    """Raise ``InputError`` unless all Nx2 points lie in an image of this size (H, W)."""
    height, width = image_size[:2]
    for x, y in points:
        if not (0 <= x <= width and 0 <= y <= height):
            raise InputError(
                f"{name} {x:g},{y:g} lies outside the image of {width}x{height} pixels: "
                "x counts from its left edge and y from its top"
            )


def read_mask(
    path: str | os.PathLike[str], image_size: tuple[int, ...], low_res_size: tuple[int, int]
) -> np.ndarray:
    """A mask prompt from a picture of a mask, or from low-res logits that were saved as .npy.

    Arguments:
        path: an image file of the image's size, bright in the mask and dark elsewhere; or .npy.
        image_size: (H, W) of the image.
        low_res_size: (h, w) of the logits that the network takes.

    Returns:
        1xhxw low-res logits.

    Raises:
        InputError: the file cannot be read, or its mask has the wrong size or is empty.
    """
    if Path(path).suffix.lower() == ".npy":
        return _read_logits(path, low_res_size)
    brightness = read_image(path).max(axis=2)
    height, width = image_size[:2]
    if brightness.shape != (height, width):
        size = "{1}x{0}".format(*brightness.shape)
        raise InputError(f"{path} is {size} pixels and the image {width}x{height}: make them equal")
    mask = brightness > brightness.max() / 2
    if not mask.any():
        raise InputError(f"{path} is black all over: paint the mask white")
    return mask_to_low_res_logits(mask, low_res_size)


def mask_to_low_res_logits(mask: np.ndarray, low_res_size: tuple[int, int]) -> np.ndarray:
    """An HxW mask as the logits that a network takes as a prompt: 1xhxw, padded like the image."""
    side = max(low_res_size)
    height, width = ResizeLongestSide.get_preprocess_shape(mask.shape[0], mask.shape[1], side)
    covered = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    logits = np.full((1, *low_res_size), -_CERTAIN, np.float32)
    logits[0, :height, :width] = _CERTAIN * (2 * covered - 1)
    return logits


def _read_logits(path: str | os.PathLike[str], low_res_size: tuple[int, int]) -> np.ndarray:
    try:
        with Path(path).open("rb") as file:
            logits = np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: check the mask's path") from None
    except Exception as error:  # a damaged file can raise anything
        raise InputError(f"{path} cannot be read as .npy: save it with numpy.save") from error
    if logits.shape not in (low_res_size, (1, *low_res_size)) or logits.dtype.kind != "f":
        raise InputError(
            f"{path} holds {logits.dtype} of shape {logits.shape}: "
            f"save the low-res logits of one mask, 1x{low_res_size[0]}x{low_res_size[1]} floats"
        )
    logits = logits.reshape(1, *low_res_size).astype(np.float32)  # any width and order of bytes
    if not np.isfinite(logits).all():
        raise InputError(f"{path} holds NaN or infinity: save the low-res logits of one mask")
    return logits


def _numbers(text: str) -> list[float]:
    """The numbers between commas; none at all if one is not a finite number."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        return []
    return numbers if np.isfinite(numbers).all() else []
