"""Everything mode in three places: the generator runs three times, with three predictors.

One that scales the image and its crops (beside the disk), one that asks the network and keeps its
answers (beside the accelerator), one that repeats the answers, of which masks are made (anywhere).
The generator does not know, so that batches find what ``SamAutomaticMaskGenerator`` finds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from expedit_sam.base_predictor import BasePredictor
from expedit_sam.everything import SamAutomaticMaskGenerator

# What ``ask_each`` returns for the K points whose masks passed: Kx4hx4w low-res logits, K predicted
# IoU, and K indices of these points.
Answer = tuple[np.ndarray, np.ndarray, np.ndarray]
_NOTHING: Answer = (np.zeros((0, 1, 1), np.float32), np.zeros(0, np.float32), np.zeros(0, int))


class PassGenerator(SamAutomaticMaskGenerator):
    """The generator, with a predictor in the place of a network."""

    @staticmethod
    def _new_predictor(model: BasePredictor) -> BasePredictor:
        return model

    def _warn_if_thresholds_are_of_another_network(self) -> None:
        """Nothing to warn of: a ``Task`` has the thresholds of its own network."""


def blank(size: tuple[int, int]) -> np.ndarray:
    """A black HxWx3 image without memory of its own, for passes that need only the size (H, W)."""
    return np.broadcast_to(np.zeros((), np.uint8), (*size, 3))


class Scaler(BasePredictor):
    """Keeps what the network would see of an image.

    Attributes:
        crops: HxWx3 uint8, the longest side that of the network's input.
    """

    network_format = "RGB"
    # Placeholders: this pass makes no masks.
    mask_threshold = 0.0
    mask_input_size = (0, 0)

    def __init__(self, side: int) -> None:
        super().__init__(side)
        self.crops: list[np.ndarray] = []

    def ask_each(self, points: np.ndarray, least_iou: float) -> Answer:
        return _NOTHING

    def encode_scaled(self, images: Sequence[np.ndarray]) -> Sequence[Any]:
        self.crops += images
        return [None] * len(images)

    def _predict(self, *prompt: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        raise NotImplementedError


class Asker(Scaler):
    """Asks a network about crops that are encoded already, and keeps what it answers.

    Arguments:
        predictor: a ``SamPredictor``.
        encoded: of each crop, its 1xCxhxw embedding and its (H, W) as the network saw it.
    """

    def __init__(self, predictor: Any, encoded: list[tuple[Any, tuple[int, int]]]) -> None:
        super().__init__(predictor.transform.target_length)
        self.predictor = predictor
        self.encoded = encoded
        self.answers: list[Answer] = []

    def set_images(
        self, images: Iterable[np.ndarray], image_format: str = "RGB"
    ) -> Iterator[np.ndarray]:
        for image, (features, input_size) in zip(images, self.encoded, strict=True):
            for predictor in (self, self.predictor):
                predictor.set_features(features, input_size, image.shape[:2])
            yield image

    def ask_each(self, points: np.ndarray, least_iou: float) -> Answer:
        self.answers.append(self.predictor.ask_each(points, least_iou))
        return _NOTHING


class Repeater(Scaler):
    """Repeats the answers of an ``Asker``, in the same order.

    Arguments:
        side: of the network's square input in pixels.
        threshold: logits above it belong to a mask.
        sizes: (H, W) of each crop as the network saw it.
        answers: what the ``Asker`` has kept.
    """

    def __init__(
        self, side: int, threshold: float, sizes: list[tuple[int, int]], answers: list[Answer]
    ) -> None:
        super().__init__(side)
        self.mask_threshold = threshold
        self.sizes = sizes
        self.answers = iter(answers)

    def set_images(
        self, images: Iterable[np.ndarray], image_format: str = "RGB"
    ) -> Iterator[np.ndarray]:
        for image, input_size in zip(images, self.sizes, strict=True):
            self.set_features(None, input_size, image.shape[:2])
            yield image

    def ask_each(self, points: np.ndarray, least_iou: float) -> Answer:
        return next(self.answers)
