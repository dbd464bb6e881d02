"""The image encoder of transformers' ``SamModel``, under the names that SAM gives its parts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from expedit_sam.errors import InputError
from expedit_sam.model.block import run_block
from expedit_sam.model.image_encoder import Steps, encode
from expedit_sam.model.untouched import require_unpatched


def is_encoder(encoder: Any) -> bool:
    """Whether this is the ``SamVisionEncoder`` of transformers."""
    return any(
        kind.__name__ == "SamVisionEncoder" and kind.__module__.startswith("transformers.")
        for kind in type(encoder).__mro__
    )


def forward(encoder: Any, pixel_values: Tensor | None = None, **options: Any) -> Any:
    """``SamVisionEncoder.forward`` at the speed that ``encoder.hourglass`` says.

    Raises:
        ValueError: there are no pixels.
        InputError: hidden states or attentions are asked for, which clusters do not have, or a
            layer's forward was replaced.
    """
    if pixel_values is None:
        raise ValueError("You have to specify pixel_values")
    for option in ("output_hidden_states", "output_attentions"):
        wanted = options.get(option)
        if getattr(encoder.config, option, False) if wanted is None else wanted:
            raise InputError(f"an expedited model has no {option}: expedite(model, None) gives it")
    require_unpatched(encoder.layers)
    steps = Steps(run_block)
    embedding = encode(_in_sams_names(encoder), pixel_values, encoder.hourglass, steps)
    as_dict = options.get("return_dict")
    if (encoder.config.return_dict if as_dict is None else as_dict) is False:
        return (embedding,)
    from transformers.models.sam.modeling_sam import SamVisionEncoderOutput

    return SamVisionEncoderOutput(last_hidden_state=embedding)


def _in_sams_names(encoder: Any) -> Any:
    """An encoder's own modules and parameters, not copies, under SAM's attribute names."""
    neck = encoder.neck
    return SimpleNamespace(
        patch_embed=encoder.patch_embed,
        pos_embed=encoder.pos_embed,
        blocks=[_block(layer) for layer in encoder.layers],
        neck=nn.Sequential(neck.conv1, neck.layer_norm1, neck.conv2, neck.layer_norm2),
    )


def _block(layer: Any) -> Any:
    attn = layer.attn
    attention = SimpleNamespace(
        qkv=attn.qkv,
        proj=attn.proj,
        num_heads=attn.num_attention_heads,
        use_rel_pos=attn.use_rel_pos,
    )
    if attn.use_rel_pos:
        attention.rel_pos_h, attention.rel_pos_w = attn.rel_pos_h, attn.rel_pos_w
    return SimpleNamespace(
        norm1=layer.layer_norm1,
        attn=attention,
        norm2=layer.layer_norm2,
        mlp=layer.mlp,
        window_size=layer.window_size,
    )
