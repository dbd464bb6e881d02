"""Prompts to masks on one image, which is encoded once."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from expedit_sam.errors import InputError
from expedit_sam.model.sam import Sam
from expedit_sam.transforms import ResizeLongestSide


class SamPredictor:
    """Encodes an image, then predicts masks from as many prompts as you like.

    Arguments:
        sam_model: the network; its ``image_encoder.hourglass`` sets the speed.
    """

    features: Tensor
    original_size: tuple[int, int]
    input_size: tuple[int, int]

    def __init__(self, sam_model: Sam) -> None:
        self.model = sam_model
        self.transform = ResizeLongestSide(sam_model.image_encoder.img_size)
        self.reset_image()

    @property
    def device(self) -> torch.device:
        return self.model.device

    def set_image(self, image: np.ndarray, image_format: str = "RGB") -> None:
        """Encode an image for ``predict``.

        Arguments:
            image: HxWx3 uint8, 0 to 255.
            image_format: order of its channels, "RGB" or "BGR".

        Raises:
            InputError: the array is no such image, or the format is unknown.
        """
        check_image(image)
        if image_format not in ("RGB", "BGR"):
            raise InputError(f"image_format is {image_format!r}; it must be 'RGB' or 'BGR'")
        if image_format != self.model.image_format:
            image = image[..., ::-1]
        resized = self.transform.apply_image(np.ascontiguousarray(image))
        pixels = torch.as_tensor(resized, device=self.device).permute(2, 0, 1)[None]
        self.set_torch_image(pixels, image.shape[:2])

    @torch.no_grad()
    def set_torch_image(
        self, transformed_image: Tensor, original_image_size: tuple[int, ...]
    ) -> None:
        """Encode an image that is already scaled for the network.

        Arguments:
            transformed_image: 1x3xHxW, 0 to 255, its longest side the network's input size.
            original_image_size: (H, W) of the image before scaling.

        Raises:
            InputError: the tensor has another shape.
        """
        side = self.model.image_encoder.img_size
        shape = tuple(transformed_image.shape)
        if len(shape) != 4 or shape[1] != 3 or max(shape[2:]) != side:
            raise InputError(
                f"set_torch_image got shape {shape}; it must be 1x3xHxW with longest side {side}"
            )
        self.reset_image()
        pixels = self.model.preprocess(transformed_image)
        self.features = self.model.image_encoder(pixels)
        self.original_size = (int(original_image_size[0]), int(original_image_size[1]))
        self.input_size = (shape[2], shape[3])
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
        points = self._points(point_coords, point_labels)
        boxes = None if box is None else self._box(box)
        low_res = None if mask_input is None else self._mask_input(mask_input)
        coords, labels = points if points is not None else (None, None)
        masks, iou, logits = self.predict_torch(
            coords, labels, boxes, low_res, multimask_output, return_logits
        )
        return masks[0].cpu().numpy(), iou[0].cpu().numpy(), logits[0].cpu().numpy()

    @torch.no_grad()
    def predict_torch(
        self,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predict masks from B prompts at once, in network pixels (see ``transform``).

        Arguments:
            point_coords: BxNx2 points (x, y).
            point_labels: BxN labels, 1 foreground, 0 background, -1 no point.
            boxes: Bx4 boxes (x0, y0, x1, y1).
            mask_input: Bx1x4hx4w low-res logits.
            multimask_output: three masks a prompt, or one.
            return_logits: logits instead of booleans.

        Returns:
            BxCxHxW masks in the image's size, BxC predicted IoU, BxCx4hx4w low-res logits.

        Raises:
            RuntimeError: no image was set.
        """
        logits, iou = self.predict_low_res(
            point_coords, point_labels, boxes, mask_input, multimask_output
        )
        masks = self.model.postprocess_masks(logits, self.input_size, self.original_size)
        return masks if return_logits else masks > self.model.mask_threshold, iou, logits

    @torch.no_grad()
    def predict_low_res(
        self,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
        multimask_output: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Like ``predict_torch``, but only BxCx4hx4w low-res logits and BxC predicted IoU."""
        self._require_image()
        points = None if point_coords is None else (point_coords, point_labels)
        sparse, dense = self.model.prompt_encoder(points=points, boxes=boxes, masks=mask_input)
        return self.model.mask_decoder(
            image_embeddings=self.features,
            image_pe=self.model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask_output,
        )

    def get_image_embedding(self) -> Tensor:
        """The 1xCxhxw embedding of the image that was set (C=256, h=w=64 for SAM).

        Raises:
            RuntimeError: no image was set.
        """
        self._require_image()
        return self.features

    def reset_image(self) -> None:
        """Forget the image."""
        self.is_image_set = False
        for name in ("features", "original_size", "input_size"):
            self.__dict__.pop(name, None)

    def _require_image(self) -> None:
        if not self.is_image_set:
            raise RuntimeError("no image is set: call set_image(image) before predicting masks")

    def _points(
        self, coords: np.ndarray | None, labels: np.ndarray | None
    ) -> tuple[Tensor, Tensor] | None:
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
        return (
            torch.as_tensor(scaled, dtype=torch.float, device=self.device)[None],
            torch.as_tensor(labels, dtype=torch.int, device=self.device)[None],
        )

    def _box(self, box: np.ndarray) -> Tensor:
        box = _numbers(box, "box")
        if box.size != 4:
            raise InputError(
                f"box has shape {box.shape}; it must be (x0, y0, x1, y1); "
                "for several boxes use predict_torch"
            )
        x0, y0, x1, y1 = box.ravel()
        if x0 > x1 or y0 > y1:
            raise InputError(
                f"box {box.ravel().tolist()} must be (x0, y0, x1, y1), x0<=x1 and y0<=y1"
            )
        self._warn_if_outside(box.reshape(2, 2), "box")
        scaled = self.transform.apply_boxes(box, self.original_size)
        return torch.as_tensor(scaled, dtype=torch.float, device=self.device)

    def _mask_input(self, mask_input: np.ndarray) -> Tensor:
        mask = _numbers(mask_input, "mask_input")
        expected = (1, *self.model.prompt_encoder.mask_input_size)
        if mask.shape != expected:
            raise InputError(
                f"mask_input has shape {mask.shape}; it must be {expected}, "
                "the low-res logits of an earlier prediction"
            )
        return torch.as_tensor(mask, dtype=torch.float, device=self.device)[None]

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
