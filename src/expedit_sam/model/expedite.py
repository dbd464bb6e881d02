"""Give the hourglass, and our fast exact attention, to a SAM that somebody else built."""

from __future__ import annotations

from types import MethodType
from typing import Any, TypeVar

from torch import Tensor, nn

from expedit_sam.errors import InputError
from expedit_sam.hourglass.settings import Hourglass, resolve
from expedit_sam.model.image_encoder import ImageEncoderViT, encode

Model = TypeVar("Model", bound=nn.Module)


def expedite(model: Model, setting: Hourglass | str | None = "balanced") -> Model:
    """Set the speed of a model's image encoder, in place; weights and their names stay as they are.

    Arguments:
        model: our ``Sam``, the original package's, or the image encoder of either.
        setting: a preset's name, an ``Hourglass``, or None to switch the hourglass off again.

    Returns:
        the same model.

    Raises:
        InputError: the model's image encoder is not built as SAM's is, or the setting does not
            fit it; the message says why.
    """
    hourglass = resolve(setting)
    encoder: Any = getattr(model, "image_encoder", model)
    if not isinstance(encoder, ImageEncoderViT):
        _require_sam_encoder(encoder)
    if hourglass is not None:
        hourglass.block(len(encoder.blocks))
    encoder.hourglass = hourglass
    if not isinstance(encoder, ImageEncoderViT):
        if hourglass is None:
            # The class's own forward shows again.
            encoder.__dict__.pop("forward", None)
        else:
            encoder.forward = MethodType(_forward, encoder)
    return model


def _forward(encoder: Any, x: Tensor) -> Tensor:
    return encode(encoder, x, encoder.hourglass)


def _require_sam_encoder(encoder: Any) -> None:
    _require(encoder, encoder, "patch_embed", "pos_embed", "blocks", "neck")
    for block in encoder.blocks:
        _require(encoder, block, "norm1", "attn", "norm2", "mlp", "window_size")
        _require(encoder, block.attn, "qkv", "proj", "num_heads", "use_rel_pos")


def _require(encoder: Any, module: Any, *names: str) -> None:
    lacking = [name for name in names if not hasattr(module, name)]
    if lacking:
        raise InputError(
            f"cannot expedite a {type(encoder).__name__}: its {type(module).__name__} lacks "
            f"{', '.join(lacking)}; pass a Sam of this package or of segment-anything"
        )
