"""The whole network: pixels and prompts to masks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expedit_sam.errors import InputError
from expedit_sam.model.image_encoder import ImageEncoderViT
from expedit_sam.model.mask_decoder import MaskDecoder
from expedit_sam.model.prompt_encoder import PromptEncoder
from expedit_sam.model.untouched import is_own
from expedit_sam.transforms import upscale_logits, upscale_masks


class Sam(nn.Module):
    """Segment Anything (arXiv 2304.02643): image encoder, prompt encoder and mask decoder.

    Arguments:
        image_encoder: encodes an image once.
        prompt_encoder: encodes points, boxes and masks.
        mask_decoder: predicts masks from both.
        pixel_mean, pixel_std: per channel, for pixels in 0 to 255.
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    mask_threshold: float = 0.0
    image_format: str = "RGB"

    def __init__(
        self,
        image_encoder: ImageEncoderViT,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
        pixel_mean: list[float] | tuple[float, ...] = (123.675, 116.28, 103.53),
        pixel_std: list[float] | tuple[float, ...] = (58.395, 57.12, 57.375),
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    @torch.no_grad()
    def forward(
        self, batched_input: list[dict[str, Any]], multimask_output: bool
    ) -> list[dict[str, Tensor]]:
        """Masks of several images at once; ``SamPredictor`` serves one image with many prompts.

        Arguments:
            batched_input: one dict an image: ``image`` (3xHxW, resized for the network),
                ``original_size`` (H, W), and any of ``point_coords`` (BxNx2) with ``point_labels``
                (BxN), ``boxes`` (Bx4), ``mask_inputs`` (Bx1x4hx4w), all in network pixels.
            multimask_output: three masks a prompt, or one.

        Returns:
            one dict an image: ``masks`` (BxMxHxW, bool, original size), ``iou_predictions`` (BxM)
            and ``low_res_logits`` (BxMx4hx4w).

        Raises:
            InputError: there is no image.
        """
        if not batched_input:
            raise InputError("batched_input is empty: give one dict an image")
        pixels = torch.stack([self.preprocess(record["image"]) for record in batched_input])
        embeddings = self.image_encoder(pixels)
        return [
            self._decode(record, embedding.unsqueeze(0), multimask_output)
            for record, embedding in zip(batched_input, embeddings, strict=True)
        ]

    def _decode(
        self, record: dict[str, Any], embedding: Tensor, multimask_output: bool
    ) -> dict[str, Tensor]:
        points = None
        if "point_coords" in record:
            points = (record["point_coords"], record["point_labels"])
        sparse, dense = self.prompt_encoder(
            points=points, boxes=record.get("boxes"), masks=record.get("mask_inputs")
        )
        logits, iou = self.mask_decoder(
            image_embeddings=embedding,
            image_pe=self.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask_output,
        )
        return {
            "masks": masks_of(self, logits, record["image"].shape[-2:], record["original_size"]),
            "iou_predictions": iou,
            "low_res_logits": logits,
        }

    def preprocess(self, x: Tensor) -> Tensor:
        """Normalise ...x3xHxW pixels (0 to 255) and pad them below and right to a square."""
        x = (x - self.pixel_mean) / self.pixel_std
        height, width = x.shape[-2:]
        side = self.image_encoder.img_size
        return F.pad(x, (0, side - width, 0, side - height))

    def postprocess_masks(
        self, masks: Tensor, input_size: tuple[int, ...], original_size: tuple[int, ...]
    ) -> Tensor:
        """Low-res logits to the original image: upscale, drop the padding, scale again.

        Arguments:
            masks: BxMx4hx4w low-res logits.
            input_size: (H, W) of the resized image before padding.
            original_size: (H, W) of the image.

        Returns:
            BxMxHxW logits.
        """
        side = self.image_encoder.img_size
        learns = torch.is_grad_enabled() and masks.requires_grad
        if masks.device.type == "cpu" and not (learns or torch.jit.is_tracing()):
            # OpenCV's scaling is three times as fast as PyTorch's.
            upscaled = upscale_logits(
                masks.detach().float().numpy(), side, input_size, original_size
            )
            return torch.from_numpy(upscaled).to(masks.dtype)
        square = F.interpolate(masks, (side, side), mode="bilinear", align_corners=False)
        inside = square[..., : input_size[0], : input_size[1]]
        return F.interpolate(inside, tuple(original_size), mode="bilinear", align_corners=False)


def masks_of(
    sam: Any, logits: Tensor, input_size: tuple[int, ...], original_size: tuple[int, ...]
) -> Tensor:
    """``sam.postprocess_masks``, above its threshold: BxMxHxW booleans."""
    own = is_own(sam, "postprocess_masks")
    if not own or logits.device.type != "cpu" or torch.jit.is_tracing():
        return sam.postprocess_masks(logits, input_size, original_size) > sam.mask_threshold
    low_res, side = logits.detach().float().numpy(), sam.image_encoder.img_size
    masks = upscale_masks(low_res, side, input_size, original_size, sam.mask_threshold)
    return torch.from_numpy(masks)
