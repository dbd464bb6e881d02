"""Checkpoints as transformers keeps them: ``model.safetensors`` and ``config.json`` in a folder."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from expedit_sam.appearing import appearing_together
from expedit_sam.model.int8 import require_float
from expedit_sam.model.sam import Sam

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"

# Parts of names: the official ones and transformers', in the order in which they are changed.
_PARTS = (
    (".norm_final_attn.", ".layer_norm_final_attn."),
    (".norm1.", ".layer_norm1."),
    (".norm2.", ".layer_norm2."),
    (".norm3.", ".layer_norm3."),
    (".norm4.", ".layer_norm4."),
    ("image_encoder.", "vision_encoder."),
    ("patch_embed.proj.", "patch_embed.projection."),
    ("vision_encoder.blocks.", "vision_encoder.layers."),
    ("neck.0.", "neck.conv1."),
    ("neck.1.", "neck.layer_norm1."),
    ("neck.2.", "neck.conv2."),
    ("neck.3.", "neck.layer_norm2."),
    ("pe_layer.positional_encoding_gaussian_matrix", "shared_embedding.positional_embedding"),
    (".point_embeddings.", ".point_embed."),
    ("mask_downscaling.0.", "mask_embed.conv1."),
    ("mask_downscaling.1.", "mask_embed.layer_norm1."),
    ("mask_downscaling.3.", "mask_embed.conv2."),
    ("mask_downscaling.4.", "mask_embed.layer_norm2."),
    ("mask_downscaling.6.", "mask_embed.conv3."),
    ("output_upscaling.0.", "upscale_conv1."),
    ("output_upscaling.1.", "upscale_layer_norm."),
    ("output_upscaling.3.", "upscale_conv2."),
)
# An MLP's first and last layer have names of their own there; all of SAM's have three layers.
_MLP = r"(mlps\.\d|iou_prediction_head)\."
_LAYERS = (("layers.0.", "proj_in."), ("layers.2.", "proj_out."), ("layers.1.", "layers.0."))
_POSITIONS = "shared_embedding.positional_embedding"
_IMAGE_POSITIONS = "shared_image_embedding.positional_embedding"  # the same numbers once more


def is_transformers(weights: dict[str, Any]) -> bool:
    """Whether these are weights by transformers' names."""
    return any(name.startswith("vision_encoder.") for name in weights)


def from_transformers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights by their official names."""
    renamed = {}
    for name, value in weights.items():
        if name == _IMAGE_POSITIONS:  # transformers' own files hold these numbers only here
            name = f"prompt_encoder.{_POSITIONS}"
        for official, theirs in _LAYERS:
            changed = re.sub(_MLP + re.escape(theirs), rf"\1.{official}", name)
            if changed != name:
                name = changed
                break
        for official, theirs in reversed(_PARTS):
            name = name.replace(theirs, official)
        renamed[name] = value
    return renamed


def to_transformers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights by transformers' names, for ``SamModel.load_state_dict``."""
    renamed = {}
    for name, value in weights.items():
        for official, theirs in _PARTS:
            name = name.replace(official, theirs)
        for official, theirs in _LAYERS:
            changed = re.sub(_MLP + re.escape(official), rf"\1.{theirs}", name)
            if changed != name:
                name = changed
                break
        renamed[name] = value
    renamed[_IMAGE_POSITIONS] = renamed[f"prompt_encoder.{_POSITIONS}"].clone()
    return renamed


def save_transformers(sam: Sam, folder: str | os.PathLike[str]) -> list[Path]:
    """Write a network as a folder that ``SamModel.from_pretrained`` and ``build_sam`` read.

    ::

        save_transformers(build_sam("vit_b"), "my_sam")
        sam = build_sam("vit_b", checkpoint="my_sam")

    Raises:
        InputError: the network is int8, or the folder cannot be written to; then nothing is.
    """
    require_float(sam)
    weights = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in to_transformers(sam.state_dict()).items()
    }
    with appearing_together(Path(folder)) as place:
        save_file(weights, place / WEIGHTS_FILE, metadata={"format": "pt"})
        text = json.dumps(_config(sam), indent=2) + "\n"
        (place / CONFIG_FILE).write_text(text, encoding="utf-8")
        # safetensors lets nobody but the owner read its file.
        (place / WEIGHTS_FILE).chmod((place / CONFIG_FILE).stat().st_mode)
        return sorted(Path(folder, path.name) for path in place.iterdir())


def _config(sam: Sam) -> dict[str, Any]:
    encoder, decoder = sam.image_encoder, sam.mask_decoder
    blocks: list[Any] = list(encoder.blocks)
    convolution = encoder.patch_embed.proj
    two_way: Any = decoder.transformer
    first, neck = blocks[0], encoder.neck
    return {
        "architectures": ["SamModel"],
        "model_type": "sam",
        "vision_config": {
            "hidden_size": convolution.out_channels,
            "output_channels": neck[0].out_channels,
            "num_hidden_layers": len(blocks),
            "num_attention_heads": first.attn.num_heads,
            "num_channels": convolution.in_channels,
            "image_size": encoder.img_size,
            "patch_size": convolution.kernel_size[0],
            "hidden_act": "gelu",
            "layer_norm_eps": first.norm1.eps,
            "qkv_bias": first.attn.qkv.bias is not None,
            "use_abs_pos": encoder.pos_embed is not None,
            "use_rel_pos": first.attn.use_rel_pos,
            "window_size": max(block.window_size for block in blocks),
            "global_attn_indexes": [i for i, b in enumerate(blocks) if b.window_size == 0],
            "num_pos_feats": sam.prompt_encoder.embed_dim // 2,
            "mlp_dim": first.mlp.lin1.out_features,
        },
        "prompt_encoder_config": {
            "hidden_size": sam.prompt_encoder.embed_dim,
            "image_size": encoder.img_size,
            "patch_size": convolution.kernel_size[0],
            "mask_input_channels": sam.prompt_encoder.mask_downscaling[3].out_channels,
        },
        "mask_decoder_config": {
            "hidden_size": decoder.transformer_dim,
            "mlp_dim": two_way.mlp_dim,
            "num_hidden_layers": two_way.depth,
            "num_attention_heads": two_way.num_heads,
            "num_multimask_outputs": decoder.num_multimask_outputs,
            "iou_head_hidden_dim": decoder.iou_prediction_head.layers[0].out_features,
        },
    }
