"""A trained network of an official size, made of the embedded one: no download, real features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expedit_sam.model.architectures import ARCHITECTURES, new_sam
from expedit_sam.model.relative_positions import resized_table
from expedit_sam.model.sam import Sam

_HEADS_OUT = ("q_proj", "k_proj", "v_proj", "qkv")
_HEADS_IN = ("out_proj", "attn.proj")


def widened(sam: Sam, model: str) -> Sam:
    """A network of another size of the same depth that computes what ``sam`` computes.

    Every channel and every head is there several times; what adds them up takes the mean. Positions
    are scaled to the other grid (Net2Net, arXiv 1511.05641, section 3).
    """
    wide = new_sam(ARCHITECTURES[model])
    state = sam.state_dict()
    for name, module in wide.named_modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for kind, target in own:
            key = f"{name}.{kind}" if name else kind
            if key in state:
                with torch.no_grad():
                    target.copy_(_widened(state[key], target.shape, module, key))
    return wide.eval()


def _widened(value: Tensor, shape: torch.Size, module: nn.Module, name: str) -> Tensor:
    if "rel_pos" in name:
        return resized_table(value, (shape[0] + 1) // 2)
    if name.endswith("pos_embed"):
        planes = F.interpolate(value.permute(0, 3, 1, 2), shape[1:3], mode="bicubic")
        value = planes.permute(0, 2, 3, 1)
    layer = name.removesuffix(".weight").removesuffix(".bias")
    added = 1 if isinstance(module, nn.Linear | nn.Conv2d) else None
    added = 0 if isinstance(module, nn.ConvTranspose2d) else added
    for dim, size in enumerate(shape):
        times = size // value.shape[dim]
        if times == 1:
            continue
        is_added = dim == added and name.endswith("weight")
        by_head = layer.endswith(_HEADS_IN) if is_added else layer.endswith(_HEADS_OUT)
        if by_head and dim == 0 and layer.endswith("qkv"):
            value = torch.cat([value.unflatten(0, (3, -1))] * times, dim=1).flatten(0, 1)
        elif by_head:
            value = torch.cat([value] * times, dim=dim)
        else:
            value = value.repeat_interleave(times, dim)
        if is_added:
            value = value / times
    if "output_hypernetworks_mlps" in name and ".layers.2." in name:
        value = value / 2  # its output is multiplied with channels and added up
    return value
