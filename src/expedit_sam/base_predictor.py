"""What every predictor does, whatever runs its network: it checks, scales and keeps. No PyTorch."""

from __future__ import annotations

import itertools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from expedit_sam.errors import InputError
from expedit_sam.read_ahead import read_ahead
from expedit_sam.transforms import ResizeLongestSide


class BasePredictor(ABC):
    """Encodes an image, then predicts masks from as many prompts as you like.

    Arguments:
        img_size: side of the network's square input in pixels.
    """

    features: Any
    original_size: tuple[int, int]
    input_size: tuple[int, int]

    def __init__(self, img_size: int) -> None:
        self.transform = ResizeLongestSide(img_size)
        self.reset_image()

    @property
    @abstractmethod
    def network_format(self) -> str:
        """Order of the channels that the network takes, "RGB" or "BGR"."""

    @property
    @abstractmethod
    def mask_input_size(self) -> tuple[int, int]:
        """(h, w) of the network's low-res logits."""

    @property
    @abstractmethod
    def mask_threshold(self) -> float:
        """Logits above it belong to a mask."""

    def set_image(self, image: np.ndarray, image_format: str = "RGB") -> None:
        """Encode an image for ``predict``. The one before is forgotten, even if encoding fails.

        Arguments:
            image: HxWx3 uint8, 0 to 255.
            image_format: order of its channels, "RGB" or "BGR".

        Raises:
            InputError: the array is no such image, or the format is unknown.
        """
        resized = self._scale(image, image_format)
        self.reset_image()
        (features,) = self.encode_scaled([resized])
        self.set_features(features, resized.shape[:2], image.shape[:2])

    def set_images(
        self, images: Iterable[np.ndarray], image_format: str = "RGB"
    ) -> Iterator[np.ndarray]:
        """Encode many images; each is set for ``predict`` while it is this loop's.

        Images to come are fetched and scaled by a thread while the network works, and encoded
        several at once where that is faster (``images_at_once``)::

            for image in predictor.set_images(map(read_image, files)):
                masks, scores, low_res_logits = predictor.predict(...)

        Arguments:
            images: each HxWx3 uint8, 0 to 255; of any sizes.
            image_format: order of their channels, "RGB" or "BGR".

        Yields:
            the images, in their order.

        Raises:
            InputError: an array is no such image, or the format is unknown.
        """
        size = self.images_at_once
        scaled = read_ahead(((image, self._scale(image, image_format)) for image in images), size)
        while group := list(itertools.islice(scaled, size)):
            self.reset_image()
            features = self.encode_scaled([resized for _, resized in group])
            for (image, resized), own in zip(group, features, strict=True):
                self.set_features(own, resized.shape[:2], image.shape[:2])
                yield image

    @property
    def images_at_once(self) -> int:
        """How many images are best encoded together."""
        return 1

    @abstractmethod
    def encode_scaled(self, images: Sequence[np.ndarray]) -> Sequence[Any]:
        """The 1xCxhxw embeddings of HxWx3 uint8 images that are scaled for the network."""

    def set_features(
        self, features: Any, input_size: tuple[int, ...], original_size: tuple[int, ...]
    ) -> None:
        """Take an embedding for ``predict``.

        Arguments:
            features: 1xCxhxw.
            input_size: (H, W) of the image as the network saw it, before padding.
            original_size: (H, W) of the image.
        """
        self.features = features
        self.input_size = (input_size[0], input_size[1])
        self.original_size = (original_size[0], original_size[1])
        self.is_image_set = True

    def predict(
        self,
        point_coords: np.ndarray | None = None,
        point_labels: np.ndarray | None = None,
        box: np.ndarray | None = None,
        mask_input: np.ndarray | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Predict masks from one prompt on the image that was set.

        Arguments:
            point_coords: Nx2 points (x, y) in pixels of the image.
            point_labels: N labels, 1 foreground and 0 background.
            box: (x0, y0, x1, y1) in pixels of the image.
            mask_input: 1x4hx4w low-res logits of an earlier prediction (1x256x256 for SAM).
            multimask_output: three masks, for a prompt that may mean several things; or one.
            return_logits: logits instead of booleans.

        Returns:
            CxHxW masks in the image's size, C predicted IoU, and Cx4hx4w low-res logits.

        Raises:
            RuntimeError: no image was set.
            InputError: a prompt has a wrong shape, is not finite, or its labels do not match.
        """
        self._require_image()
        if box is not None and point_coords is not None and len(point_coords) == 0:
            point_coords = point_labels = None  # a box alone
        points = self._points(point_coords, point_labels)
        boxes = None if box is None else self._box(box)
        low_res = None if mask_input is None else self._mask_input(mask_input)
        coords, labels = points if points is not None else (None, None)
        return self._predict(coords, labels, boxes, low_res, multimask_output, return_logits)

    def get_image_embedding(self) -> Any:
        """The 1xCxhxw embedding of the image that was set (C=256, h=w=64 for SAM).

        Raises:
            RuntimeError: no image was set.
        """
        self._require_image()
        return self.features

    def reset_image(self) -> None:
        """Forget the image."""
        self.is_image_set = False
        self.features = None

    @abstractmethod
    def ask_each(
        self, points: np.ndarray, least_iou: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Predict three masks from each foreground point by itself, and keep the good ones.

        Arguments:
            points: Nx2 (x, y) in pixels of the image.
            least_iou: masks whose predicted IoU is not above it are left out.

        Returns:
            Kx4hx4w low-res logits, K predicted IoU, and K numbers of their points.

        Raises:
            RuntimeError: no image was set.
        """

    @abstractmethod
    def _predict(
        self,
        point_coords: np.ndarray | None,
        point_labels: np.ndarray | None,
        box: np.ndarray | None,
        mask_input: np.ndarray | None,
        multimask_output: bool,
        return_logits: bool,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``predict`` on checked prompts in network pixels.

        These are 1xNx2 points, 1xN labels, a 1x4 box and 1x1x4hx4w mask input.
        """

    def _scale(self, image: np.ndarray, image_format: str) -> np.ndarray:
        """An image in the network's channel order and size, without its padding."""
        check_image(image)
        if image_format not in ("RGB", "BGR"):
            raise InputError(f"image_format is {image_format!r}; it must be 'RGB' or 'BGR'")
        if image_format != self.network_format:
            image = image[..., ::-1]
        return self.transform.apply_image(np.ascontiguousarray(image))

    def _require_image(self) -> None:
        if not self.is_image_set:
            raise RuntimeError("no image is set: call set_image(image) before predicting masks")

    def _points(
        self, coords: np.ndarray | None, labels: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """1xNx2 points in network pixels and their 1xN labels, once checked; None for none."""
        if coords is None:
            if labels is not None:
                raise InputError("point_labels were given without point_coords: pass both")
            return None
        coords = _numbers(coords, "point_coords")
        if coords.ndim != 2 or coords.shape[1] != 2 or len(coords) == 0:
            raise InputError(
                f"point_coords have shape {coords.shape}; they must be Nx2, N at least 1"
            )
        if labels is None:
            raise InputError("point_coords were given without point_labels: pass one label a point")
        labels = _numbers(labels, "point_labels")
        if labels.shape != coords.shape[:1]:
            raise InputError(
                f"point_labels have shape {labels.shape} for {len(coords)} points: pass one a point"
            )
        if not np.isin(labels, (-1, 0, 1)).all():
            raise InputError("point_labels must be 1 (foreground) or 0 (background)")
        self._warn_if_outside(coords[labels >= 0], "point_coords")
        scaled = self.transform.apply_coords(coords, self.original_size)
        return scaled.astype(np.float32)[None], labels.astype(np.int32)[None]

    def _box(self, box: np.ndarray) -> np.ndarray:
        """The box in network pixels, 1x4, once checked."""
        box = _numbers(box, "box")
        if box.size != 4:
            raise InputError(
                f"box has shape {box.shape}; it must be (x0, y0, x1, y1); "
                "for several boxes use predict_torch"
            )
        x0, y0, x1, y1 = box.ravel()
        if x0 > x1 or y0 > y1:
            warnings.warn(
                f"box {box.ravel().tolist()} is not (x0, y0, x1, y1) with x0<=x1 and y0<=y1: "
                "masks may be meaningless",
                stacklevel=3,
            )
        self._warn_if_outside(box.reshape(2, 2), "box")
        return self.transform.apply_boxes(box, self.original_size).astype(np.float32)

    def _mask_input(self, mask_input: np.ndarray) -> np.ndarray:
        """The 1x1x4hx4w low-res logits, once checked."""
        mask = _numbers(mask_input, "mask_input")
        expected = (1, *self.mask_input_size)
        if mask.shape != expected:
            raise InputError(
                f"mask_input has shape {mask.shape}; it must be {expected}, "
                "the low-res logits of an earlier prediction"
            )
        return mask.astype(np.float32)[None]

    def _warn_if_outside(self, points: np.ndarray, name: str) -> None:
        height, width = self.original_size
        if ((points < 0) | (points > (width, height))).any():
            warnings.warn(
                f"{name} reach outside the {width}x{height} image: masks may be meaningless",
                stacklevel=4,
            )


def check_image(image: object) -> None:
    """Raise ``InputError`` unless the image is an HxWx3 uint8 array with pixels in it."""
    if not isinstance(image, np.ndarray):
        raise InputError(
            f"image is a {type(image).__name__}; it must be an HxWx3 uint8 array: "
            "np.asarray(image.convert('RGB')) makes one of a Pillow image"
        )
    if image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"image has shape {image.shape}; it must be HxWx3")
    if image.dtype != np.uint8:
        raise InputError(f"image has type {image.dtype}; it must be uint8, 0 to 255")
    if image.size == 0:
        raise InputError(f"image has shape {image.shape}: it has no pixels")


def _numbers(values: object, name: str) -> np.ndarray:
    """The values as a float array; ``InputError`` if they are no finite numbers."""
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be an array of numbers") from None
    if not np.isfinite(array).all():
        raise InputError(f"{name} holds NaN or infinite values")
    return array
