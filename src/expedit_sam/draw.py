"""Pictures of results: masks in distinct colours over the image, and the prompts they came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike
from pycocotools import mask as coco

from expedit_sam.errors import InputError
from expedit_sam.everything import rle

# Steps of hue and lightness that fill the plane evenly however many there are: powers of the
# plastic number (Roberts, "The unreasonable effectiveness of quasirandom sequences", R2).
_STEPS = (1.3247179572447460**-2, 1.3247179572447460**-1)
_START = np.array([[0.25], [0.75]])  # the first colour is a blue, rare in photographs
_CHROMA = 60
_INCLUDE = (34, 160, 80)
_EXCLUDE = (214, 50, 48)
_BOX = (255, 196, 0)
_WHITE = (255, 255, 255)


def overlay(
    image: np.ndarray, masks: Sequence[np.ndarray | dict[str, Any]], opacity: float = 0.5
) -> np.ndarray:
    """Lay masks over an image, each in its own colour with an outline, small ones above large ones.

    ::

        image = read_image("photo.jpg")
        masks = SamAutomaticMaskGenerator(build_sam(), **RECOMMENDED["vit_s"]).generate(image)
        Image.fromarray(overlay(image, masks)).save("overlay.png")

    Arguments:
        image: HxWx3 uint8, RGB.
        masks: HxW masks, COCO run-length encodings, or records that hold one of these as
            ``segmentation``. The colour of a mask depends on its place in the list alone.
        opacity: of the colours between the outlines, 0 to 1.

    Returns:
        HxWx3 uint8, RGB.

    Raises:
        InputError: a mask has another size than the image.
    """
    palette = colors(len(masks))
    tints = (palette // 2 + 127).tolist()  # light outlines stand out from the colours they hold
    owner = np.zeros(image.shape[:2], np.int32)  # of each pixel: the mask's number, 0 for none
    outlines = []
    encoded = [run_lengths(mask) for mask in masks]
    for index in np.argsort([-rle.area(mask) for mask in encoded], kind="stable").tolist():
        size = tuple(encoded[index]["size"])
        if size != owner.shape:
            raise InputError(
                f"mask {index} has shape {size} and the image {owner.shape}: "
                "draw masks on the image they were made of"
            )
        x, y, width, height = coco.toBbox(encoded[index]).astype(int).tolist()
        part = np.s_[y : y + height, x : x + width]
        mask = np.ascontiguousarray(coco.decode(encoded[index])[part])
        owner[part][mask > 0] = index + 1
        contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(x, y))
        outlines.append((index, contours))

    fill = np.concatenate([np.zeros((1, 3), np.uint8), palette])[owner]
    picture = np.where(
        owner[..., None] > 0, cv2.addWeighted(image, 1 - opacity, fill, opacity, 0), image
    )
    for index, contours in outlines:
        cv2.drawContours(picture, contours, -1, tints[index], _stroke(image), cv2.LINE_AA)
    return picture


def draw_prompts(
    image: np.ndarray,
    points: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    box: ArrayLike | None = None,
) -> np.ndarray:
    """Draw points, green with a plus (include) or red with a minus (exclude), and a box.

    ::

        picture = draw_prompts(image, [[320, 200]], [1], box=[90, 20, 480, 390])

    Arguments:
        image: HxWx3 uint8, RGB.
        points: Nx2 points (x, y) in pixels.
        labels: N labels, 1 include and 0 exclude; None includes all.
        box: (x0, y0, x1, y1) in pixels.

    Returns:
        HxWx3 uint8, RGB.
    """
    picture, stroke = image.copy(), _stroke(image)
    if box is not None:
        x0, y0, x1, y1 = np.rint(box).astype(int).tolist()
        for color, width in ((_WHITE, 3 * stroke), (_BOX, stroke)):
            cv2.rectangle(picture, (x0, y0), (x1, y1), color, width, cv2.LINE_AA)
    if points is not None:
        places = np.rint(points).astype(int).tolist()
        includes = [1] * len(places) if labels is None else np.asarray(labels).tolist()
        for (x, y), include in zip(places, includes, strict=True):
            _draw_point(picture, x, y, bool(include), stroke)
    return picture


def colors(count: int) -> np.ndarray:
    """The first ``count`` of an endless row of distinct colours: countx3 uint8, RGB."""
    hue, lightness = (np.outer(_STEPS, np.arange(1, count + 1)) + _START) % 1
    angle = 2 * np.pi * hue
    lab = np.stack([40 + 50 * lightness, _CHROMA * np.cos(angle), _CHROMA * np.sin(angle)], axis=-1)
    rgb = cv2.cvtColor(lab[None].astype(np.float32), cv2.COLOR_LAB2RGB)[0] if count else lab
    return np.rint(rgb.clip(0, 1) * 255).astype(np.uint8)


def binary_mask(mask: np.ndarray | dict[str, Any]) -> np.ndarray:
    """HxW booleans of a mask, a COCO run-length encoding, or a record that holds either."""
    if isinstance(mask, dict) and "segmentation" in mask:
        mask = mask["segmentation"]
    if not isinstance(mask, dict):
        return np.asarray(mask, dtype=bool)
    return rle.decode_mask(mask)


def run_lengths(mask: np.ndarray | dict[str, Any]) -> dict[str, Any]:
    """What ``binary_mask`` takes as COCO's run-length encoding."""
    if isinstance(mask, dict) and "segmentation" in mask:
        mask = mask["segmentation"]
    if not isinstance(mask, dict):
        return rle.encode_masks(np.asarray(mask, dtype=bool)[None])[0]
    return rle.compressed(mask)


def _stroke(image: np.ndarray) -> int:
    """Width of a line that is seen and hides little, in pixels."""
    return max(1, round(max(image.shape[:2]) / 600))


def _draw_point(picture: np.ndarray, x: int, y: int, include: bool, stroke: int) -> None:
    radius, arm = 7 * stroke, 4 * stroke
    cv2.circle(picture, (x, y), radius + 2 * stroke, _WHITE, cv2.FILLED, cv2.LINE_AA)
    cv2.circle(picture, (x, y), radius, _INCLUDE if include else _EXCLUDE, cv2.FILLED, cv2.LINE_AA)
    cv2.line(picture, (x - arm, y), (x + arm, y), _WHITE, 2 * stroke, cv2.LINE_AA)
    if include:
        cv2.line(picture, (x, y - arm), (x, y + arm), _WHITE, 2 * stroke, cv2.LINE_AA)
