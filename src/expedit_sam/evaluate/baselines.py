"""Segmentation without a network, to compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import cv2
import numpy as np

from expedit_sam.errors import InputError
from expedit_sam.evaluate.contestants import Answer, Contestant, Prompts
from expedit_sam.evaluate.datasets import regions_of
from expedit_sam.evaluate.prompts import BOXES, EVERYTHING
from expedit_sam.everything.rle import Rle

_GRABCUT_ROUNDS = 5
# Around a click, of the image's shorter side: surely and probably the object.
_SURE, _PROBABLE = 0.02, 0.1


def find_baselines(names: Iterable[str]) -> list[Contestant]:
    """The baselines of these names.

    Raises:
        InputError: one is unknown.
    """
    names = list(names)
    if unknown := [name for name in names if name not in BASELINES]:
        raise InputError(
            f"no baseline is called {unknown[0]!r}: choose one of {', '.join(BASELINES)}"
        )
    return [BASELINES[name]() for name in names]


class GrabCut:
    """OpenCV's GrabCut (Rother et al. 2004), from a box or from discs around a click."""

    name = "grabcut"
    kinds: tuple[str, ...] = ("click", *BOXES)

    def identity(self, kinds: Sequence[str]) -> dict[str, Any]:
        return {"rounds": _GRABCUT_ROUNDS, "discs": [_SURE, _PROBABLE]}

    def set_image(self, image: np.ndarray) -> None:
        self._image = image

    def ask(self, prompts: Prompts) -> Answer:
        if prompts.boxes is not None:
            return _answer([self._cut(self._in_box(box)) for box in prompts.boxes])
        return _answer([self._under(point) for point in _clicks(prompts)])

    def everything(self, image: np.ndarray) -> list[Rle]:
        raise NotImplementedError

    def _in_box(self, box: np.ndarray) -> np.ndarray:
        trimap = np.full(self._image.shape[:2], cv2.GC_BGD, np.uint8)
        x0, y0, x1, y1 = np.rint(box).astype(int)
        trimap[y0 : y1 + 1, x0 : x1 + 1] = cv2.GC_PR_FGD
        return trimap

    def _under(self, point: np.ndarray) -> np.ndarray:
        """The connected part of the cut that was clicked."""
        trimap = np.full(self._image.shape[:2], cv2.GC_PR_BGD, np.uint8)
        x, y = point.tolist()
        for share, label in ((_PROBABLE, cv2.GC_PR_FGD), (_SURE, cv2.GC_FGD)):
            cv2.circle(trimap, (x, y), round(share * min(trimap.shape)), label, cv2.FILLED)
        _, parts = cv2.connectedComponents(self._cut(trimap).astype(np.uint8))
        return parts == parts[y, x]

    def _cut(self, trimap: np.ndarray) -> np.ndarray:
        object_pixels = np.isin(trimap, (cv2.GC_FGD, cv2.GC_PR_FGD))
        if object_pixels.all():  # a model of the background has nothing to learn from
            return object_pixels
        background, foreground = np.zeros((2, 1, 65))
        cv2.setRNGSeed(0)
        rounds, mode = _GRABCUT_ROUNDS, cv2.GC_INIT_WITH_MASK
        cv2.grabCut(self._image, trimap, (0, 0, 0, 0), background, foreground, rounds, mode)
        return np.isin(trimap, (cv2.GC_FGD, cv2.GC_PR_FGD))


class Superpixels:
    """The segment of a segmentation of the whole image that lies under a click.

    Arguments:
        name: what it is called in the results.
        segment: HxWx3 uint8 to HxW numbers from 1.
        parameters: the segmentation's, for the record.
    """

    kinds: tuple[str, ...] = ("click", EVERYTHING)

    def __init__(
        self,
        name: str,
        segment: Callable[..., np.ndarray],
        parameters: dict[str, float],
    ) -> None:
        self.name = name
        self._parameters = parameters
        self._segment = segment

    def identity(self, kinds: Sequence[str]) -> dict[str, Any]:
        return dict(self._parameters)

    def set_image(self, image: np.ndarray) -> None:
        self._labels = self._segment(image, **self._parameters)

    def ask(self, prompts: Prompts) -> Answer:
        xs, ys = _clicks(prompts).T
        return _answer([self._labels == label for label in self._labels[ys, xs]])

    def everything(self, image: np.ndarray) -> list[Rle]:
        self.set_image(image)
        return list(regions_of(self._labels + 1))


def _slic() -> Superpixels:
    from skimage.segmentation import slic

    return Superpixels("slic", slic, {"n_segments": 200, "compactness": 10})


def _felzenszwalb() -> Superpixels:
    from skimage.segmentation import felzenszwalb

    return Superpixels("felzenszwalb", felzenszwalb, {"scale": 300, "sigma": 0.8, "min_size": 50})


BASELINES: dict[str, Callable[[], Contestant]] = {
    "grabcut": GrabCut,
    "slic": _slic,
    "felzenszwalb": _felzenszwalb,
}


def _clicks(prompts: Prompts) -> np.ndarray:
    """Px2 integers (x, y), of each prompt its only point."""
    assert prompts.points is not None
    return np.rint(prompts.points[:, 0]).astype(int)


def _answer(masks: list[np.ndarray]) -> Answer:
    """One mask a prompt, none preferred."""
    return Answer(np.stack(masks)[:, None], np.zeros((len(masks), 1)))
