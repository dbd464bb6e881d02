"""Prompt encoder, mask decoder and upscaling as one graph that can be traced."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expedit_sam.everything.filters import calculate_stability_score
from expedit_sam.model.sam import Sam

# Any number far above a predicted IoU: it alone decides between the first mask and the others.
_DECISIVE = 1000.0


class SamOnnxModel(nn.Module):
    """All of SAM after the image encoder, with the original's interface.

    Nothing in it branches on values: one trace serves any number of points and any image size.

    Arguments:
        model: the network.
        return_single_mask: only the best mask of each prompt: the one for clear prompts from three
            points on (padding counts), else the one of the other three with the best score.
        use_stability_score: score masks by their stability instead of their predicted IoU.
        return_extra_metrics: return stability scores and areas too.
    """

    stability_score_offset = 1.0

    def __init__(
        self,
        model: Sam,
        return_single_mask: bool,
        use_stability_score: bool = False,
        return_extra_metrics: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.mask_decoder = model.mask_decoder
        self.img_size = model.image_encoder.img_size
        self.return_single_mask = return_single_mask
        self.use_stability_score = use_stability_score
        self.return_extra_metrics = return_extra_metrics

    @torch.no_grad()
    def forward(
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        orig_im_size: Tensor,
    ) -> tuple[Tensor, ...]:
        """Predict masks from B prompts on one image.

        Arguments:
            image_embeddings: 1xCxhxw.
            point_coords: BxNx2 points (x, y) in network pixels.
            point_labels: BxN: 1 foreground, 0 background, 2 and 3 a box's top-left and
                bottom-right corner, -1 padding (to be added where there is no box).
            mask_input: 1x1x4hx4w low-res logits.
            has_mask_input: 1 number, 1 to use the mask input and 0 to ignore it.
            orig_im_size: 2 numbers, (H, W) of the image.

        Returns:
            BxMxHxW logits in the image's size, BxM scores and BxMx4hx4w low-res logits (M = 4, or 1
            for a single mask); with extra metrics, BxM stability scores and areas before the last.
        """
        logits, scores = self.mask_decoder.predict_masks(
            image_embeddings=image_embeddings,
            image_pe=self.model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=self._embed_points(point_coords, point_labels),
            dense_prompt_embeddings=self._embed_masks(mask_input, has_mask_input),
        )
        if self.use_stability_score:
            scores = self._stability(logits)
        if self.return_single_mask:
            logits, scores = self.select_masks(logits, scores, point_coords.shape[1])
        masks = self.mask_postprocessing(logits, orig_im_size)
        if not self.return_extra_metrics:
            return masks, scores, logits
        areas = (masks > self.model.mask_threshold).sum(dim=(-2, -1))
        return masks, scores, self._stability(masks), areas, logits

    def select_masks(
        self, masks: Tensor, iou_preds: Tensor, num_points: int
    ) -> tuple[Tensor, Tensor]:
        """Select one of each prompt's four masks, as ``return_single_mask`` says.

        Arguments:
            masks: Bx4x4hx4w low-res logits.
            iou_preds: Bx4 scores.
            num_points: of a prompt, padding included.

        Returns:
            Bx1x4hx4w logits and Bx1 scores.
        """
        is_first = (torch.arange(iou_preds.shape[1], device=iou_preds.device) == 0).to(iou_preds)
        # Instead of a branch: from three points on the first mask wins, else one of the others.
        best = (iou_preds + (num_points - 2.5) * _DECISIVE * is_first).argmax(dim=1)
        prompts = torch.arange(masks.shape[0], device=masks.device)
        return masks[prompts, best].unsqueeze(1), iou_preds[prompts, best].unsqueeze(1)

    def mask_postprocessing(self, masks: Tensor, orig_im_size: Tensor) -> Tensor:
        """BxMx4hx4w low-res logits to BxMxHxW of the image's size (H, W), without the padding."""
        inside = self.resize_longest_image_size(orig_im_size, self.img_size)
        size = orig_im_size.to(torch.int64).unbind()  # tensors: a trace does not fix them
        rows, columns = (self._upscaling(int(masks.shape[-1]), inside[i], size[i]) for i in (0, 1))
        return rows.T @ (masks @ columns)

    @staticmethod
    def resize_longest_image_size(input_image_size: Tensor, longest_side: int) -> Tensor:
        """(H, W) after scaling the longer of both to ``longest_side``, as whole numbers."""
        size = input_image_size.to(torch.float32)
        return torch.floor(longest_side / size.max() * size + 0.5).to(torch.int64)

    def _embed_points(self, coords: Tensor, labels: Tensor) -> Tensor:
        encoder = self.model.prompt_encoder
        # Pixel centres, in units of the network's input.
        embedding = encoder.pe_layer._pe_encoding((coords + 0.5) / self.img_size)
        labels = labels.unsqueeze(-1)
        embedding = torch.where(labels == -1, encoder.not_a_point_embed.weight, embedding)
        kinds: Any = encoder.point_embeddings
        for label, kind in enumerate(kinds):
            embedding = embedding + (labels == label) * kind.weight
        return embedding

    def _embed_masks(self, mask_input: Tensor, has_mask_input: Tensor) -> Tensor:
        encoder = self.model.prompt_encoder
        without = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        return torch.lerp(without, encoder.mask_downscaling(mask_input), has_mask_input)

    def _upscaling(self, low: int, inside: Any, size: Any) -> Tensor:
        """Both bilinear scalings of one axis, which are linear, as one low x size matrix.

        Arguments:
            low: length of the axis in low-res logits; to be scaled to the network's input.
            inside: how much of that input the image takes, without the padding.
            size: length of the axis in the image.
        """
        identity = torch.eye(low)[None, None]
        upscaled = F.interpolate(
            identity, size=(low, self.img_size), mode="bilinear", align_corners=False
        )
        scaled = F.interpolate(
            upscaled[..., :inside], size=(low, size), mode="bilinear", align_corners=False
        )
        return scaled[0, 0].to(self.model.device)

    def _stability(self, masks: Tensor) -> Tensor:
        return calculate_stability_score(
            masks, self.model.mask_threshold, self.stability_score_offset
        )
