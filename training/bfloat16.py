"""Weights in bfloat16 for a forward pass, with gradients for their originals."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def bfloat16_weights(module: nn.Module, but: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """A module's parameters in bfloat16 by name, for ``functional_call``.

    They are converted together, because one by one a GPU would spend its time on launches.

    Arguments:
        module: the module.
        but: parameters whose names contain one of these are left out.
    """
    parameters = {
        name: parameter
        for name, parameter in module.named_parameters()
        if not any(part in name for part in but)
    }
    together = torch.cat([parameter.flatten() for parameter in parameters.values()]).bfloat16()
    pieces = together.split([parameter.numel() for parameter in parameters.values()])
    return {
        name: piece.view_as(parameter)
        for (name, parameter), piece in zip(parameters.items(), pieces, strict=True)
    }
