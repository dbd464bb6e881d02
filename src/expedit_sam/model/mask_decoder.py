"""The mask decoder: image embedding and prompt embeddings to masks and their predicted IoU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expedit_sam.model.layers import MLP, LayerNorm2d

_PROMPTS_PER_STEP = 6


class MaskDecoder(nn.Module):
    """SAM's mask decoder (Segment Anything, appendix A).

    Arguments:
        transformer_dim: channels of every token.
        transformer: the two-way transformer.
        num_multimask_outputs: masks for an ambiguous prompt.
        activation: activation between the upscaling layers.
        iou_head_depth, iou_head_hidden_dim: layers and width of the IoU head.
    """

    def __init__(
        self,
        *,
        transformer_dim: int,
        transformer: nn.Module,
        num_multimask_outputs: int = 3,
        activation: type[nn.Module] = nn.GELU,
        iou_head_depth: int = 3,
        iou_head_hidden_dim: int = 256,
    ) -> None:
        super().__init__()
        self.transformer_dim = transformer_dim
        self.transformer = transformer
        self.num_multimask_outputs = num_multimask_outputs
        self.num_mask_tokens = num_multimask_outputs + 1
        self.iou_token = nn.Embedding(1, transformer_dim)
        self.mask_tokens = nn.Embedding(self.num_mask_tokens, transformer_dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(transformer_dim, transformer_dim // 4, kernel_size=2, stride=2),
            LayerNorm2d(transformer_dim // 4),
            activation(),
            nn.ConvTranspose2d(transformer_dim // 4, transformer_dim // 8, kernel_size=2, stride=2),
            activation(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(transformer_dim, transformer_dim, transformer_dim // 8, 3)
            for _ in range(self.num_mask_tokens)
        )
        self.iou_prediction_head = MLP(
            transformer_dim, iou_head_hidden_dim, self.num_mask_tokens, iou_head_depth
        )

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        """Predict masks for B prompts on one image, or one prompt on each of B images.

        Arguments:
            image_embeddings: 1xCxhxw or BxCxhxw.
            image_pe: 1xCxhxw positions of the image tokens.
            sparse_prompt_embeddings: BxTxC, points and boxes.
            dense_prompt_embeddings: BxCxhxw, mask inputs.
            multimask_output: three masks for an ambiguous prompt, or the one for a clear prompt.

        Returns:
            BxMx4hx4w low-res logits and BxM predicted IoU, M = 3 or 1.
        """
        chosen = slice(1, None) if multimask_output else slice(0, 1)
        return self._predict(
            image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings, chosen
        )

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """All four masks of each prompt: Bx4x4hx4w low-res logits and Bx4 predicted IoU."""
        return self._predict(
            image_embeddings,
            image_pe,
            sparse_prompt_embeddings,
            dense_prompt_embeddings,
            slice(None),
        )

    def predict_confident(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        least_iou: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of three masks a prompt, those with a predicted IoU above ``least_iou``.

        Predicted IoU is known before the pixels are: prompts without such a mask are spared the
        upscaling.

        Returns:
            Kx4hx4w low-res logits, K predicted IoU, and of each the number of its prompt.
        """
        arguments = (image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings)
        three = slice(1, None)
        if image_embeddings.device.type != "cpu":
            masks, iou = self._predict(*arguments, three)  # together they are faster than spared
            passing = iou > least_iou
            return masks[passing], iou[passing], passing.nonzero()[:, 0]
        side = image_embeddings.shape[-2:]
        logits, scores = [torch.empty(0, side[0] * 4, side[1] * 4)], []
        for image_tokens, kernels, iou in self._decode(*arguments, three):
            scores.append(iou)
            for tokens, masks, good in zip(image_tokens, kernels, iou > least_iou, strict=True):
                if good.any():
                    logits.append(self._upscale(tokens[None], masks[good][None], side)[0])
        iou = torch.cat(scores)
        passing = iou > least_iou
        return torch.cat(logits), iou[passing], passing.nonzero()[:, 0]

    def _predict(
        self, image: Tensor, image_pe: Tensor, sparse: Tensor, dense: Tensor, chosen: slice
    ) -> tuple[Tensor, Tensor]:
        masks, scores = [], []
        for image_tokens, kernels, iou in self._decode(image, image_pe, sparse, dense, chosen):
            masks.append(self._upscale_each(image_tokens, kernels, image.shape[-2:]))
            scores.append(iou)
        return torch.cat(masks), torch.cat(scores)

    def _decode(
        self, image: Tensor, image_pe: Tensor, sparse: Tensor, dense: Tensor, chosen: slice
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Bx(h*w)xC image tokens, BxMx(C/8) mask kernels and BxM predicted IoU of some prompts.

        A few prompts at a time on a CPU, so that their image tokens stay in its cache.
        """
        own_tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own_tokens.expand(sparse.shape[0], -1, -1), sparse], dim=1)
        if dense.stride(0) == 0:
            # No mask input: one embedding repeated, so all prompts still share the image.
            dense = dense[:1]
        size = _PROMPTS_PER_STEP if sparse.device.type == "cpu" else len(sparse)
        heads = list(enumerate(self.output_hypernetworks_mlps, start=1))[chosen]
        transformer: Any = self.transformer
        for some, image_tokens in transformer.groups(image + dense, image_pe, tokens, size):
            kernels = torch.stack([head(some[:, number]) for number, head in heads], dim=1)
            yield image_tokens, kernels, self.iou_prediction_head(some[:, 0])[:, chosen]

    def _upscale_each(self, image_tokens: Tensor, kernels: Tensor, grid: tuple[int, ...]) -> Tensor:
        """``_upscale``, on a CPU a prompt at a time: pixels are sixteen times as many as tokens."""
        if image_tokens.device.type != "cpu" or len(kernels) <= 1:
            return self._upscale(image_tokens, kernels, grid)
        each = zip(image_tokens.split(1), kernels.split(1), strict=True)
        return torch.cat([self._upscale(*one, grid) for one in each])

    def _upscale(self, image_tokens: Tensor, kernels: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Bx(h*w)xC image tokens and BxMx(C/8) mask kernels to BxMx4hx4w logits.

        A 2x2 transposed convolution of stride 2 is a matrix product; pixels stay in the order of
        the tokens they came from until only the masks are left to rearrange.
        """
        layers: Any = self.output_upscaling
        first, norm, activation, second, last_activation = layers
        x = _transposed_convolution(first, image_tokens)
        x = activation(F.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.eps))
        x = last_activation(_transposed_convolution(second, x))
        batch, masks, _ = kernels.shape
        logits = torch.bmm(kernels, x.flatten(1, -2).transpose(1, 2))
        # Pixels come as token row, token column, then a 2x2 place inside it, twice.
        logits = logits.view(batch, masks, *grid, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7)
        return logits.reshape(batch, masks, grid[0] * 4, grid[1] * 4)


def _transposed_convolution(layer: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """...xC to ...x4xO: each pixel's 2x2 block of outputs, as a 2x2 stride-2 kernel gives it."""
    weight = layer.weight.permute(2, 3, 1, 0).reshape(-1, layer.in_channels)
    bias = layer.bias.repeat(4) if layer.bias is not None else None
    return F.linear(x, weight, bias).unflatten(-1, (4, layer.out_channels))
