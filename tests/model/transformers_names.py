"""Official parameter names to those of transformers' ``SamModel``."""

from __future__ import annotations

import re

from torch import Tensor

_NAMES = (
    (r"^image_encoder\.", "vision_encoder."),
    (r"patch_embed\.proj\b", "patch_embed.projection"),
    (r"^vision_encoder\.blocks\.", "vision_encoder.layers."),
    (r"neck\.0\b", "neck.conv1"),
    (r"neck\.1\b", "neck.layer_norm1"),
    (r"neck\.2\b", "neck.conv2"),
    (r"neck\.3\b", "neck.layer_norm2"),
    (r"norm_final_attn", "layer_norm_final_attn"),
    (r"\bnorm(\d)\b", r"layer_norm\1"),
    (r"pe_layer\.positional_encoding_gaussian_matrix", "shared_embedding.positional_embedding"),
    (r"point_embeddings", "point_embed"),
    (r"mask_downscaling\.0\b", "mask_embed.conv1"),
    (r"mask_downscaling\.1\b", "mask_embed.layer_norm1"),
    (r"mask_downscaling\.3\b", "mask_embed.conv2"),
    (r"mask_downscaling\.4\b", "mask_embed.layer_norm2"),
    (r"mask_downscaling\.6\b", "mask_embed.conv3"),
    (r"output_upscaling\.0\b", "upscale_conv1"),
    (r"output_upscaling\.1\b", "upscale_layer_norm"),
    (r"output_upscaling\.3\b", "upscale_conv2"),
    (r"(mlps\.\d|iou_prediction_head)\.layers\.0\b", r"\1.proj_in"),
    (r"(mlps\.\d|iou_prediction_head)\.layers\.2\b", r"\1.proj_out"),
    (r"(mlps\.\d|iou_prediction_head)\.layers\.1\b", r"\1.layers.0"),
)


def to_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A whole ``Sam``'s state dict for ``SamModel.load_state_dict``."""
    renamed = {}
    for name, value in state.items():
        for ours, theirs in _NAMES:
            name = re.sub(ours, theirs, name)
        renamed[name] = value
    positions = "shared_embedding.positional_embedding"
    renamed["shared_image_embedding.positional_embedding"] = renamed[f"prompt_encoder.{positions}"]
    return renamed
