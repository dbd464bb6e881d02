"""Prompts to masks on one image, which is encoded once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expedit_sam.allocator import keep_freed_memory
from expedit_sam.base_predictor import BasePredictor
from expedit_sam.errors import InputError
from expedit_sam.model.mask_decoder import MaskDecoder, PreparedImage
from expedit_sam.model.sam import Sam, masks_of
from expedit_sam.model.untouched import is_own
from expedit_sam.modes import is_autocasting
from expedit_sam.transforms import seen_logits

_IMAGES_AT_ONCE = 8  # on an accelerator; a CPU is no faster with more than one


@dataclass(frozen=True)
class _KeptImage:
    """A prepared image, and how to tell that it is out of date.

    Attributes:
        tensors: the embedding and the weights that the image was prepared from.
        state: the state of these when it was (see ``SamPredictor._state``).
        prepared: the image.
    """

    tensors: list[Tensor]
    state: list[Any]
    prepared: PreparedImage


class SamPredictor(BasePredictor):
    """Encodes an image, then predicts masks from as many prompts as you like.

    Arguments:
        sam_model: the network; its ``image_encoder.hourglass`` sets the speed.
    """

    features: Tensor
    _kept: _KeptImage | None = None

    def __init__(self, sam_model: Sam) -> None:
        keep_freed_memory()
        self.model = sam_model
        super().__init__(sam_model.image_encoder.img_size)

    @property
    def network_format(self) -> str:
        return self.model.image_format

    @property
    def mask_input_size(self) -> tuple[int, int]:
        # Somebody's own prompt encoder may not have the size; SAM's patches are 16 pixels wide.
        side = self.transform.target_length // 16
        height, width = getattr(self.model.prompt_encoder, "image_embedding_size", (side, side))
        return 4 * height, 4 * width

    @property
    def mask_threshold(self) -> float:
        return self.model.mask_threshold

    @property
    def device(self) -> torch.device:
        return self.model.device

    def set_image(self, image: np.ndarray, image_format: str = "RGB") -> None:
        pixels = torch.as_tensor(self._scale(image, image_format), device=self.device)
        self.set_torch_image(pixels.permute(2, 0, 1).contiguous()[None], image.shape[:2])

    def set_images(
        self, images: Iterable[np.ndarray], image_format: str = "RGB"
    ) -> Iterator[np.ndarray]:
        encodes_as_ours = is_own(self.model.image_encoder, "forward")
        if encodes_as_ours and is_own(self, "set_image") and is_own(self, "set_torch_image"):
            yield from super().set_images(images, image_format)
            return
        # A subclass's set_image may know no format, so the usual one is not passed.
        other = () if image_format == "RGB" else (image_format,)
        for image in images:
            self.set_image(image, *other)
            yield image

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
        if len(shape) != 4 or 0 in shape or shape[1] != 3 or max(shape[2:]) != side:
            raise InputError(
                f"set_torch_image got shape {shape}; it must be 1x3xHxW with longest side {side}"
            )
        self.reset_image()
        features = self.model.image_encoder(self.model.preprocess(transformed_image))
        self.set_features(features, shape[2:], tuple(map(int, original_image_size)))

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
        sizes = (self.input_size, self.original_size)
        if return_logits:
            return self.model.postprocess_masks(logits, *sizes), iou, logits
        return masks_of(self.model, logits, *sizes), iou, logits

    @torch.no_grad()
    def predict_low_res(
        self,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
        multimask_output: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """``predict_torch`` without masks of the image: BxCx4hx4w logits and BxC predicted IoU."""
        self._require_image()
        points = None if point_coords is None else (point_coords, point_labels)
        sparse, dense = self.model.prompt_encoder(points=points, boxes=boxes, masks=mask_input)
        if mask_input is None and self._can_prepare:
            prepared = self._prepared(dense)
            return self.model.mask_decoder.predict(prepared, sparse, multimask_output)
        return self.model.mask_decoder(
            image_embeddings=self.features,
            image_pe=self.model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask_output,
        )

    @property
    def _can_prepare(self) -> bool:
        """Whether the decoder can prepare an image once for many prompts."""
        decoder = self.model.mask_decoder
        return isinstance(decoder, MaskDecoder) and decoder.is_as_built()

    def _prepared(self, dense: Tensor) -> PreparedImage:
        """The image prepared for prompts without a mask input: once, unless a weight changes."""
        tensors = [self.features]
        parts = (self.model.mask_decoder, self.model.prompt_encoder)
        modules = [module for part in parts for module in part.modules()]
        for module in modules:
            weights = (*module._parameters.values(), *module._buffers.values())
            tensors += [weight for weight in weights if weight is not None]
        state = self._state(modules, tensors)
        kept = self._kept  # another thread may reset the image meanwhile
        if kept is None or kept.state != state:
            positions = self.model.prompt_encoder.get_dense_pe()
            prepared = self.model.mask_decoder.prepare(self.features, positions, dense)
            # The tensors are held, so that no others can come to lie at their addresses.
            self._kept = kept = _KeptImage(tensors, state, prepared)
        return kept.prepared

    def _state(self, modules: Sequence[Any], tensors: Sequence[Tensor]) -> list[Any]:
        """What differs once a module or tensor was replaced or changed, or autocast switched."""
        versions = [(x.data_ptr(), None if x.is_inference() else x._version) for x in tensors]
        return [*modules, *versions, is_autocasting(self.device.type)]

    def reset_image(self) -> None:
        super().reset_image()
        self._kept = None

    @torch.no_grad()
    def ask_each(
        self, points: np.ndarray, least_iou: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self._require_image()
        scaled = self.transform.apply_coords(points, self.original_size)
        coords = torch.as_tensor(scaled, dtype=torch.float, device=self.device)[:, None]
        labels = torch.ones(coords.shape[:2], dtype=torch.int, device=self.device)
        if not (self._can_prepare and is_own(self, "predict_torch")):
            _, iou, logits = self.predict_torch(coords, labels)
            passing = (iou > least_iou).cpu().numpy()
            return _array(logits)[passing], _array(iou)[passing], passing.nonzero()[0]
        sparse, dense = self.model.prompt_encoder(points=(coords, labels), boxes=None, masks=None)
        seen = seen_logits(self.mask_input_size, self.transform.target_length, self.input_size)
        logits, iou, numbers = self.model.mask_decoder.predict_confident(
            self._prepared(dense), sparse, least_iou, seen
        )
        return _array(logits), _array(iou), numbers.cpu().numpy()

    @property
    def images_at_once(self) -> int:
        return 1 if self.device.type == "cpu" else _IMAGES_AT_ONCE

    @torch.no_grad()
    def encode_scaled(self, images: Sequence[np.ndarray]) -> Sequence[Tensor]:
        pixels = [torch.as_tensor(image, device=self.device).permute(2, 0, 1) for image in images]
        padded = torch.cat([self.model.preprocess(image[None]) for image in pixels])
        return self.model.image_encoder(padded).split(1)

    def _predict(self, *prompt: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        on_device: list[Any] = [
            torch.as_tensor(part, device=self.device) if isinstance(part, np.ndarray) else part
            for part in prompt
        ]
        masks, iou, logits = self.predict_torch(*on_device)
        found = masks[0].cpu().numpy() if masks.dtype == torch.bool else _array(masks[0])
        return found, _array(iou[0]), _array(logits[0])


def _array(x: Tensor) -> np.ndarray:
    """A float32 array: NumPy has no bfloat16, and OpenCV does not scale float16."""
    return x.float().cpu().numpy()
