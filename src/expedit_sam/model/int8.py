"""Linear layers of the image encoder on 8-bit integers, which newer CPUs multiply fastest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from expedit_sam.errors import InputError
from expedit_sam.model.image_encoder import ImageEncoderViT

_LARGEST = 127


def quantize(encoder: ImageEncoderViT) -> None:
    """Put ``Int8Linear`` in the place of every linear layer of the blocks, for good.

    The encoder cannot be trained any more; its weights take a quarter of the memory.

    Raises:
        InputError: this CPU does not multiply 8-bit integers.
    """
    encoder.requires_grad_(False)
    # The list does not hold the layers, so that each is freed as soon as it is replaced.
    parts = [part for part in encoder.blocks.modules() if not isinstance(part, nn.Linear)]
    for part in parts:
        for name, layer in part.named_children():
            if isinstance(layer, nn.Linear):
                setattr(part, name, Int8Linear(layer))


def require_float(network: nn.Module) -> None:
    """Raise ``InputError`` if a network holds ``Int8Linear``, which is not converted."""
    if any(isinstance(part, Int8Linear) for part in network.modules()):
        raise InputError("an int8 network cannot be converted: build it in float32")


class Int8Linear(nn.Module):
    """A linear layer whose weights, and whose input while it runs, are rounded to 8 bits.

    Each output channel's weights have a scale of their own, and so has each token, found when it
    comes (ZeroQuant, arXiv 2206.01861, section 4.1). The output is of the input's type. Weights of
    a float32 layer are rounded when ``load_state_dict`` brings them.

    Arguments:
        layer: what to round; it is not changed.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        require_integer_products()
        weight, scale = _rounded(layer.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale[:, 0])
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())

    def __setstate__(self, state: dict[str, Any]) -> None:
        require_integer_products()  # it may come from another machine
        super().__setstate__(state)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        weight = state_dict.get(f"{prefix}weight")
        if isinstance(weight, Tensor) and weight.is_floating_point() and weight.ndim == 2:
            # A float32 network's, which to copy into integers would cut to zeros.
            rounded, scale = _rounded(weight.detach().float())
            state_dict = state_dict | {f"{prefix}weight": rounded, f"{prefix}scale": scale[:, 0]}
        super()._load_from_state_dict(state_dict, prefix, *others)

    def forward(self, x: Tensor) -> Tensor:
        """(...)xC to (...)xO.

        Raises:
            InputError: gradients are asked for.
        """
        if (x.requires_grad and torch.is_grad_enabled()) or _has_tangent(x):
            raise InputError("an int8 encoder has no gradients: build it in float32")
        # In float32, because sums of products exceed what float16 can hold.
        tokens, scale = _rounded(x.flatten(0, -2).float())
        products = torch._int_mm(tokens, self.weight.T).to(scale.dtype)
        products.mul_(scale).mul_(self.scale)
        if self.bias is not None:
            products.add_(self.bias)
        return products.unflatten(0, x.shape[:-1]).to(x.dtype)


def _has_tangent(x: Tensor) -> bool:
    """Whether forward differentiation follows a tensor, which it would lose at the rounding."""
    return not torch.compiler.is_compiling() and forward_ad.unpack_dual(x).tangent is not None


def has_integer_products() -> bool:
    """Whether PyTorch has this CPU multiply 8-bit integers: it asks for AVX-512's VNNI.

    Elsewhere it multiplies one number at a time. Its older versions may add products in 16 bits,
    where large ones do not fit.
    """
    return torch.cpu._is_vnni_supported()


def require_integer_products() -> None:
    """Raise ``InputError`` if this CPU does not multiply 8-bit integers."""
    if not has_integer_products():
        raise InputError("int8 needs a CPU with AVX-512 VNNI instructions: choose float32 here")


def _rounded(rows: Tensor) -> tuple[Tensor, Tensor]:
    """NxC int8 and Nx1 scales, whose product is about the NxC ``rows``."""
    scale = rows.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / _LARGEST
    return (rows / scale).round_().to(torch.int8), scale
