"""The mask decoder: image embedding and prompt embeddings to masks and their predicted IoU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expedit_sam.model import called_decoder
from expedit_sam.model.image_tokens import ImageTokens, OwnTokens
from expedit_sam.model.layers import MLP, LayerNorm2d, LogitFilter
from expedit_sam.model.shared_image import SharedImage, SharedTokens
from expedit_sam.model.upscaling import Upscaling
from expedit_sam.modes import is_autocasting, is_followed

_PROMPTS_PER_STEP = 16


@dataclass(frozen=True)
class PreparedImage:
    """What the decoder computes once an image, before any prompt.

    Attributes:
        own: image tokens that are written out for each prompt.
        shared: image tokens that all prompts share; None where that is not possible.
        upscaling: from image tokens to low-res logits.
    """

    own: OwnTokens
    shared: SharedTokens | None
    upscaling: Upscaling

    def tokens(self, prompt_tokens: int) -> OwnTokens | SharedTokens:
        """The image tokens, of the kind that is faster for prompts of so many tokens."""
        channels = self.own.values.shape[-1]
        if self.shared is not None and self.shared.image.rows(prompt_tokens) < channels:
            return self.shared
        return self.own


class MaskDecoder(nn.Module):
    """SAM's mask decoder (Segment Anything, appendix A).

    Arguments:
        transformer_dim: channels of every token.
        transformer: the two-way transformer.
        num_multimask_outputs: masks for an ambiguous prompt.
        activation: activation between the upscaling layers.
        iou_head_depth, iou_head_hidden_dim: layers and width of the IoU head.
        filter_size: not the original's: side of a learned filter that low-res logits pass last;
            0 for none.
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
        filter_size: int = 0,
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
        self.logit_filter = LogitFilter(filter_size) if filter_size else None

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if not hasattr(self, "logit_filter"):  # pickled by the original
            self.logit_filter = None

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
        chosen = self._chosen(multimask_output)
        # With gradients all masks are made: distributed training expects every head to take part.
        # (PyTorch's tracer runs with gradients and without, and compares what is done.)
        learns = torch.is_grad_enabled() and not torch.jit.is_tracing()
        if not learns and self.is_as_built():
            shared = len(sparse_prompt_embeddings) > 1
            image = self.prepare(image_embeddings, image_pe, dense_prompt_embeddings, shared)
            return self._predict(image, sparse_prompt_embeddings, chosen)
        masks, iou = self.predict_masks(
            image_embeddings=image_embeddings,
            image_pe=image_pe,
            sparse_prompt_embeddings=sparse_prompt_embeddings,
            dense_prompt_embeddings=dense_prompt_embeddings,
        )
        some = slice(chosen.start, chosen.stop)
        return masks[:, some], iou[:, some]

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """All four masks of each prompt: Bx4x4hx4w low-res logits and Bx4 predicted IoU."""
        sparse, dense = sparse_prompt_embeddings, dense_prompt_embeddings
        if not self.is_as_built():
            return called_decoder.predict_masks(self, image_embeddings, image_pe, sparse, dense)
        image = self.prepare(image_embeddings, image_pe, dense, shared=len(sparse) > 1)
        return self._predict(image, sparse, range(self.num_mask_tokens))

    def is_as_built(self) -> bool:
        """Whether no part was changed, so that ``prepare`` may be used."""
        return called_decoder.is_as_built(self)

    def prepare(
        self, image_embeddings: Tensor, image_pe: Tensor, dense: Tensor, shared: bool = True
    ) -> PreparedImage:
        """What prompts need of an image, for ``predict`` and ``predict_confident``.

        Arguments:
            image_embeddings, image_pe, dense: see ``forward``.
            shared: whether to prepare ``SharedTokens``, which pays for more than one prompt.
        """
        # A trace may be given mask inputs, where its example had none.
        if dense.stride(0) == 0 and not torch.jit.is_tracing():
            dense = dense[:1]  # no mask input: one embedding repeated
        image, positions = (
            x.flatten(2).transpose(1, 2).contiguous() for x in (image_embeddings + dense, image_pe)
        )
        height, width = image_embeddings.shape[-2:]
        upscaling = Upscaling.of(self.output_upscaling, self.logit_filter, (height, width))
        # Sums of squares need float32; what autograd needs is not kept.
        may_share = (
            image.dtype == torch.float32
            and not (is_autocasting(image.device.type) or is_followed())
            and len(image) == len(positions) == 1
        )
        together = None
        if shared and may_share:
            transformer: Any = self.transformer
            outward, _ = upscaling.first
            together = SharedImage(transformer, image, positions, outward).tokens()
        return PreparedImage(OwnTokens(image, positions), together, upscaling)

    def predict(
        self, image: PreparedImage, sparse: Tensor, multimask_output: bool
    ) -> tuple[Tensor, Tensor]:
        """``forward`` on an image that is prepared."""
        return self._predict(image, sparse, self._chosen(multimask_output))

    def _chosen(self, multimask_output: bool) -> range:
        """Numbers of the masks: the first is for clear prompts, the others for ambiguous ones."""
        return range(1, self.num_mask_tokens) if multimask_output else range(1)

    def predict_confident(
        self,
        image: PreparedImage,
        sparse: Tensor,
        least_iou: float,
        seen: tuple[int, int] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of three masks a prompt, those with a predicted IoU above ``least_iou``.

        Predicted IoU is known before the pixels are, so prompts without such a mask are not
        upscaled; nor is the padding, which nobody looks at.

        Arguments:
            image: see ``prepare``.
            sparse: BxTxC, points and boxes.
            least_iou: masks must be above it.
            seen: (rows, columns) of low-res logits, from the upper left, that are looked at; None
                for all. Logits beyond them are not those of ``predict``.

        Returns:
            Kx4hx4w low-res logits, K predicted IoU, and K numbers of their prompts.
        """
        if sparse.device.type != "cpu":
            # A GPU upscales all masks in less time than it takes to pick some.
            masks, iou = self.predict(image, sparse, multimask_output=True)
            prompts, numbers = (iou > least_iou).nonzero(as_tuple=True)  # one wait for the device
            return masks[prompts, numbers], iou[prompts, numbers], prompts
        height, width = image.upscaling.grid
        rows, columns = part = image.upscaling.part(seen)
        logits, scores = [torch.empty(0, rows * 4, columns * 4)], []
        for tokens, kernels, iou in self._decode(image, sparse, range(1, self.num_mask_tokens)):
            scores.append(iou)
            for i, good in enumerate(iou > least_iou):
                if good.any():
                    one = slice(i, i + 1)
                    logits.append(image.upscaling.logits(tokens, kernels[one, good], one, part)[0])
        iou = torch.cat(scores)
        passing = iou > least_iou
        beyond = (0, 4 * (width - columns), 0, 4 * (height - rows))
        return F.pad(torch.cat(logits), beyond), iou[passing], passing.nonzero()[:, 0]

    def _predict(
        self, image: PreparedImage, sparse: Tensor, chosen: range
    ) -> tuple[Tensor, Tensor]:
        masks, scores = [], []
        for tokens, kernels, iou in self._decode(image, sparse, chosen):
            # A CPU takes one prompt at a time: pixels are sixteen times as many as tokens.
            size = 1 if sparse.device.type == "cpu" else max(len(kernels), 1)
            for start in range(0, max(len(kernels), 1), size):
                some = slice(start, start + size)
                masks.append(image.upscaling.logits(tokens, kernels[some], some))
            scores.append(iou)
        return torch.cat(masks), torch.cat(scores)

    def _decode(
        self, image: PreparedImage, sparse: Tensor, chosen: range
    ) -> Iterator[tuple[ImageTokens, Tensor, Tensor]]:
        """Image tokens, BxMx(C/8) mask kernels and BxM predicted IoU, of some prompts at a time.

        A CPU takes few at a time: more need memory and are no faster.
        """
        if len(sparse) == 1:  # one prompt for all images
            sparse = sparse.expand(len(image.own.values), -1, -1)
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(len(sparse), -1, -1), sparse], dim=1)
        size = _PROMPTS_PER_STEP if sparse.device.type == "cpu" else len(sparse)
        wanted = [0, *(1 + number for number in chosen)]
        tokens_of_image = image.tokens(tokens.shape[1])
        heads: Any = self.output_hypernetworks_mlps
        transformer: Any = self.transformer
        for start in range(0, max(len(tokens), 1), max(size, 1)):
            some = slice(start, start + size)
            before = tokens_of_image.of(some)
            attended, image_tokens = transformer.attend(before, tokens[some], wanted)
            kernels = [heads[number](attended[:, 1 + i]) for i, number in enumerate(chosen)]
            iou = self.iou_prediction_head(attended[:, 0])[:, chosen.start : chosen.stop]
            yield image_tokens, torch.stack(kernels, dim=1), iou
