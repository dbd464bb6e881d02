"""Give the hourglass, and our fast exact attention, to a SAM that somebody else built."""

from __future__ import annotations

from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from expedit_sam.errors import InputError
from expedit_sam.hourglass.settings import Hourglass, fitting, resolve
from expedit_sam.model import transformers_sam
from expedit_sam.model.block import clustering_window, run_block
from expedit_sam.model.image_encoder import ImageEncoderViT, Steps, encode
from expedit_sam.model.untouched import require_unpatched

Model = TypeVar("Model", bound=nn.Module)

_REMEDY = "pass a Sam of this package, of segment-anything, transformers or timm"


def expedite(model: Model, setting: Hourglass | str | None = "balanced") -> Model:
    """Set the speed of a model's image encoder, in place; weights and their names stay as they are.

    Arguments:
        model: our ``Sam``, the original package's or a fork's with the same encoder, transformers'
            ``SamModel``, or the image encoder of any of them; or a ``samvit_*`` of timm.
        setting: a preset's name or an ``Hourglass``; "exact" brings another package's model our
            exact attention alone. None gives it back its own forward pass.

    Returns:
        the same model.

    Raises:
        InputError: the model's image encoder is not built as SAM's is, or the setting does not
            fit it; the message says why.
    """
    resolve(setting)  # a misspelt name is reported first
    encoder: Any = model
    for name in ("image_encoder", "vision_encoder"):
        encoder = getattr(model, name, encoder)
    if isinstance(encoder, ImageEncoderViT):
        encoder.hourglass = setting
        return model
    is_transformers = transformers_sam.is_encoder(encoder)
    if not is_transformers:
        _require_sam_encoder(encoder)
    method = _method(encoder)
    is_expedited = "hourglass" in vars(encoder)
    if setting is None and not is_expedited:
        return model
    _require_free(encoder, method)
    if setting is None:
        # Without ours on the instance, the class's method is called again.
        encoder.__dict__.pop(method, None)
        encoder.__dict__.pop("hourglass", None)
        return model
    if not (is_transformers or is_expedited):
        _require_an_embedding(encoder)
    blocks = encoder.layers if is_transformers else encoder.blocks
    require_unpatched(blocks)
    encoder.hourglass = fitting(setting, len(blocks), clustering_window(blocks))
    forward = transformers_sam.forward if is_transformers else _forward
    setattr(encoder, method, partial(forward, encoder))  # a method could not be pickled
    return model


def _forward(encoder: Any, x: Tensor) -> Tensor:
    require_unpatched(encoder.blocks)
    return encode(encoder, x, encoder.hourglass, Steps(run_block))


def _method(encoder: Any) -> str:
    """Name of the method that makes the embedding: in timm's encoders ``forward`` adds a head."""
    return "forward_features" if hasattr(encoder, "forward_features") else "forward"


def _require_free(encoder: Any, method: str) -> None:
    """Raise ``InputError`` if an encoder has somebody's method, which ours would be put over."""
    theirs = vars(encoder).get(method)
    if theirs and getattr(theirs, "func", None) not in (_forward, transformers_sam.forward):
        raise InputError(
            f"cannot expedite a {type(encoder).__name__}: it has a {method} of its own; "
            "take it off (if it is accelerate's, load the model on one device)"
        )


def _require_sam_encoder(encoder: Any) -> None:
    head = ("head",) if _method(encoder) == "forward_features" else ()
    _require(encoder, encoder, ("patch_embed", "blocks", "neck", *head), ("pos_embed",))
    for block in encoder.blocks:
        _require(encoder, block, ("norm1", "attn", "norm2", "mlp"), ("window_size",))
        _require(encoder, block.attn, ("qkv", "proj"), ("num_heads", "use_rel_pos"))
        _require(encoder, block.attn.qkv, values=("weight", "bias"))


def _require(
    encoder: Any, module: Any, modules: tuple[str, ...] = (), values: tuple[str, ...] = ()
) -> None:
    """Raise ``InputError`` unless a module has these parts, and no others that do something."""
    fault = f"cannot expedite a {type(encoder).__name__}: its {type(module).__name__}"
    if lacking := [name for name in (*modules, *values) if not hasattr(module, name)]:
        raise InputError(f"{fault} lacks {', '.join(lacking)}; {_REMEDY}")
    idle = (nn.Identity, nn.Dropout)
    unknown = [
        name
        for name, part in module.named_children()
        if name not in modules and not isinstance(part, idle)
    ]
    if modules and unknown:
        raise InputError(f"{fault} has {', '.join(unknown)}, which SAM's has not; {_REMEDY}")


@torch.no_grad()
def _require_an_embedding(encoder: Any) -> None:
    """Raise ``InputError`` if an encoder returns more, as SAM-HQ's does; tried without blocks."""
    blocks, convolution = encoder.blocks, encoder.patch_embed.proj
    grid = (1, 1) if encoder.pos_embed is None else encoder.pos_embed.shape[1:3]
    size = [step * number for step, number in zip(convolution.stride, grid, strict=True)]
    empty = convolution.weight.new_zeros(1, convolution.in_channels, *size)
    try:
        encoder.blocks = nn.Sequential()
        embedding = getattr(encoder, _method(encoder))(empty)
    finally:
        encoder.blocks = blocks
    if not isinstance(embedding, Tensor):
        raise InputError(
            f"cannot expedite a {type(encoder).__name__}: it returns more than an embedding; "
            f"{_REMEDY}"
        )
