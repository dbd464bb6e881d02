"""Prompts to masks from an exported network, on onnxruntime or OpenVINO, without PyTorch.

::

    from expedit_sam.export.runtime import SamPredictor

    predictor = SamPredictor("exported")  # the folder that `expedit-sam export` wrote
    predictor.set_image(image)
    masks, scores, low_res_logits = predictor.predict(point_coords, point_labels)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from expedit_sam import everything
from expedit_sam.base_predictor import BasePredictor
from expedit_sam.errors import InputError
from expedit_sam.export.graphs import open_graph
from expedit_sam.export.metadata import graph_path, read_metadata
from expedit_sam.transforms import upscale_logits, upscale_masks

_PADDING, _FOREGROUND, _TOP_LEFT, _BOTTOM_RIGHT = -1, 1, 2, 3
# The decoder's inputs besides the image embedding.
_PROMPT_INPUTS = ("point_coords", "point_labels", "mask_input", "has_mask_input", "orig_im_size")


class SamPredictor(BasePredictor):
    """Encodes an image, then predicts masks from as many prompts as you like.

    Arguments:
        folder: what ``expedit-sam export`` wrote.

    Raises:
        InputError: the folder holds no export, its encoder and decoder do not belong together, or
            the runtime is not installed.
    """

    features: np.ndarray

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        place = Path(folder)
        self.metadata = meta = read_metadata(place)
        self._encoder, self._decoder = (
            open_graph(graph_path(place, part, meta.format), meta.format)
            for part in ("encoder", "decoder")
        )
        if not self._encoder.digest == self._decoder.digest == meta.weights:
            raise InputError(
                f"{place} holds an encoder and a decoder of different networks: export again"
            )
        super().__init__(meta.img_size)

    @property
    def network_format(self) -> str:
        return self.metadata.image_format

    @property
    def mask_input_size(self) -> tuple[int, int]:
        height, width = self.metadata.mask_input_size
        return height, width

    @property
    def mask_threshold(self) -> float:
        return self.metadata.mask_threshold

    def ask_each(
        self, points: np.ndarray, least_iou: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self._require_image()
        scaled = self.transform.apply_coords(points, self.original_size).astype(np.float32)
        answers = [self._decode(point[None], np.array([_FOREGROUND])) for point in scaled]
        logits, iou = (np.stack(part) for part in zip(*answers, strict=True))
        passing = iou > least_iou
        return logits[passing], iou[passing], passing.nonzero()[0]

    def encode_scaled(self, images: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        return [self._encode(image) for image in images]

    def _encode(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        mean = np.array(self.metadata.pixel_mean, np.float32)
        std = np.array(self.metadata.pixel_std, np.float32)
        side = self.metadata.img_size
        pixels = np.zeros((side, side, 3), np.float32)
        pixels[:height, :width] = (image - mean) / std
        planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])
        (features,) = self._encoder.run({"x": planes}, ["image_embeddings"])
        return features

    def _predict(
        self,
        point_coords: np.ndarray | None,
        point_labels: np.ndarray | None,
        box: np.ndarray | None,
        mask_input: np.ndarray | None,
        multimask_output: bool,
        return_logits: bool,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        coords, labels = np.zeros((0, 2), np.float32), np.zeros(0)
        if point_coords is not None and point_labels is not None:
            coords, labels = point_coords[0], point_labels[0]
        logits, iou = self._decode(coords, labels, box, mask_input, multimask_output)
        place = (self.metadata.img_size, self.input_size, self.original_size)
        if return_logits:
            return upscale_logits(logits, *place), iou, logits
        return upscale_masks(logits, *place, self.mask_threshold), iou, logits

    def _decode(
        self,
        coords: np.ndarray,
        labels: np.ndarray,
        box: np.ndarray | None = None,
        mask_input: np.ndarray | None = None,
        multimask_output: bool = True,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mx4hx4w low-res logits and M predicted IoU of one prompt in network pixels."""
        corners = np.zeros((1, 2), np.float32) if box is None else box.reshape(2, 2)
        kinds = [_PADDING] if box is None else [_TOP_LEFT, _BOTTOM_RIGHT]
        no_mask = np.zeros((1, 1, *self.mask_input_size), np.float32)
        values = (
            np.concatenate([coords, corners])[None],
            np.concatenate([labels, kinds])[None],
            no_mask if mask_input is None else mask_input,
            np.array([mask_input is not None]),
            np.ones(2),  # masks are upscaled here, and only those that are wanted
        )
        inputs = {
            name: np.float32(value) for name, value in zip(_PROMPT_INPUTS, values, strict=True)
        }
        inputs["image_embeddings"] = self.features
        iou, logits = self._decoder.run(inputs, ["iou_predictions", "low_res_masks"])
        # An export with --return-single-mask has chosen already.
        chosen = slice(None)
        if logits.shape[1] > 1:
            chosen = slice(1, None) if multimask_output else slice(0, 1)
        return logits[0, chosen], iou[0, chosen]


class SamAutomaticMaskGenerator(everything.SamAutomaticMaskGenerator):
    """Everything mode of an exported network; ``model`` is the folder of the export."""

    @staticmethod
    def _new_predictor(model: Any) -> BasePredictor:
        return SamPredictor(model)
