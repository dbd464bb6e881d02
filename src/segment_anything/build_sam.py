"""Networks by the original's builders, with the hourglass fork's arguments."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from expedit_sam.hourglass import PRESETS
from expedit_sam.hourglass.published import DEFAULTS, in_published_names, published_setting
from expedit_sam.hourglass.settings import fitting
from expedit_sam.model.architectures import ARCHITECTURES, Architecture, new_sam
from expedit_sam.weights.read import read_sam, read_weights
from segment_anything.modeling import (
    HourglassImageEncoderViT,
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)

Checkpoint = str | os.PathLike[str] | None


def build_sam_vit_h(
    checkpoint: Checkpoint = None, *, use_hourglass: bool = False, **hourglass_args: Any
) -> Sam:
    """A ViT-H network in evaluation mode.

    Arguments:
        checkpoint: a .pth or .safetensors file; None leaves the random weights it starts with.
        use_hourglass: faster, on clusters of tokens. Alone it means the ``balanced`` preset.
        hourglass_args: with ``use_hourglass``, the method exactly as published:
            ``hourglass_clustering_location`` (block number, negative for none),
            ``hourglass_num_cluster``, ``hourglass_cluster_iters``, ``hourglass_temperture``
            (``hourglass_temperature`` too), ``hourglass_cluster_window_size`` and
            ``hourglass_reconstruction_k``.

    Raises:
        CheckpointError: the file cannot be read, or belongs to another network.
        ValueError: an hourglass argument is out of its range.
        TypeError: there is no such argument.
    """
    return _build("vit_h", checkpoint, use_hourglass, hourglass_args)


def build_sam_vit_l(
    checkpoint: Checkpoint = None, *, use_hourglass: bool = False, **hourglass_args: Any
) -> Sam:
    """A ViT-L network in evaluation mode (see ``build_sam_vit_h``)."""
    return _build("vit_l", checkpoint, use_hourglass, hourglass_args)


def build_sam_vit_b(
    checkpoint: Checkpoint = None, *, use_hourglass: bool = False, **hourglass_args: Any
) -> Sam:
    """A ViT-B network in evaluation mode (see ``build_sam_vit_h``)."""
    return _build("vit_b", checkpoint, use_hourglass, hourglass_args)


build_sam = build_sam_vit_h

sam_model_registry = {
    "default": build_sam_vit_h,
    "vit_h": build_sam_vit_h,
    "vit_l": build_sam_vit_l,
    "vit_b": build_sam_vit_b,
}

__all__ = [
    "HourglassImageEncoderViT",
    "ImageEncoderViT",
    "MaskDecoder",
    "PromptEncoder",
    "Sam",
    "TwoWayTransformer",
    "build_sam",
    "build_sam_vit_b",
    "build_sam_vit_h",
    "build_sam_vit_l",
    "sam_model_registry",
]


def _build_sam(
    encoder_embed_dim: int,
    encoder_depth: int,
    encoder_num_heads: int,
    encoder_global_attn_indexes: Sequence[int],
    checkpoint: Checkpoint = None,
) -> Sam:
    """A network of another width or depth, as the original's builders make theirs."""
    indexes = tuple(encoder_global_attn_indexes)
    sam = new_sam(Architecture(encoder_embed_dim, encoder_depth, encoder_num_heads, indexes))
    if checkpoint is not None:
        sam.load_state_dict(read_weights(checkpoint))
    return sam


def _build(
    name: str, checkpoint: Checkpoint, use_hourglass: bool, hourglass_args: dict[str, Any]
) -> Sam:
    architecture = ARCHITECTURES[name]
    given = in_published_names(hourglass_args)
    if use_hourglass:  # what does not fit fails before a long load
        setting = published_setting({**DEFAULTS, **given})
        fitting(setting, architecture.depth, architecture.window_size)
    sam = new_sam(architecture) if checkpoint is None else read_sam(checkpoint, name)
    if use_hourglass:
        encoder: Any = sam.image_encoder
        encoder.__class__ = HourglassImageEncoderViT  # the same weights, as the fork calls them
        if hourglass_args:
            encoder.load_hourglass_args(**hourglass_args)
        else:
            encoder.hourglass = PRESETS["balanced"]
    return sam
