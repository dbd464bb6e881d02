"""The mask decoder with every part called: the way for decoders whose parts are no longer SAM's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from expedit_sam.model.layers import LayerNorm2d
from expedit_sam.model.two_way_transformer import Attention, TwoWayTransformer
from expedit_sam.model.untouched import are_untouched, is_own


def is_as_built(decoder: Any) -> bool:
    """Whether a decoder's weights may be read in the place of calling its parts."""
    return (
        are_untouched(decoder)
        and is_own(decoder, "predict_masks")
        and isinstance(decoder.transformer, TwoWayTransformer)
        and all(_has_biases(attention) for attention in decoder.transformer.image_attentions)
        and all(_is_affine(layer) for layer in decoder.transformer.layers)
        and _doubles_twice(decoder.output_upscaling)
    )


def _is_affine(layer: Any) -> bool:
    """Whether the norm after a layer has written to image tokens has weight and bias."""
    return getattr(layer.norm4, "bias", None) is not None


def _has_biases(attention: Any) -> bool:
    names = ("q_proj", "k_proj", "v_proj", "out_proj")
    return isinstance(attention, Attention) and all(
        getattr(getattr(attention, name), "bias", None) is not None for name in names
    )


def _doubles_twice(upscaling: Any) -> bool:
    """Whether the layers are the two transposed convolutions that ``Upscaling`` computes."""
    kinds = [nn.ConvTranspose2d, LayerNorm2d, nn.Module, nn.ConvTranspose2d, nn.Module]
    return (
        len(upscaling) == len(kinds)
        and all(map(isinstance, upscaling, kinds))
        and all(
            (layer.kernel_size, layer.stride) == ((2, 2), (2, 2)) and layer.bias is not None
            for layer in (upscaling[0], upscaling[3])
        )
    )


def predict_masks(
    decoder: Any, image_embeddings: Tensor, image_pe: Tensor, sparse: Tensor, dense: Tensor
) -> tuple[Tensor, Tensor]:
    """``MaskDecoder.predict_masks``, as the original computes it (Segment Anything, appendix A)."""
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([own.expand(len(sparse), -1, -1), sparse], dim=1)
    image = image_embeddings + dense
    batch = max(len(image), len(tokens))
    tokens, image, positions = (x.expand(batch, *x.shape[1:]) for x in (tokens, image, image_pe))
    seen, image_tokens = decoder.transformer(image, positions, tokens)
    pixels = decoder.output_upscaling(image_tokens.transpose(1, 2).reshape(image.shape))
    kernels = [head(seen[:, 1 + i]) for i, head in enumerate(decoder.output_hypernetworks_mlps)]
    masks = torch.einsum("bmc,bchw->bmhw", torch.stack(kernels, dim=1), pixels)
    if decoder.logit_filter is not None:
        masks = decoder.logit_filter(masks)
    return masks, decoder.iou_prediction_head(seen[:, 0])
