"""The small layers that every part of the network shares."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expedit_sam.model.untouched import is_untouched
from expedit_sam.products import linear


def call_linear(layer: nn.Module, x: Tensor) -> Tensor:
    """Call a linear layer, by oneDNN where that is faster, or whatever replaced the layer."""
    if isinstance(layer, nn.Linear) and is_untouched(layer):
        return linear(x, layer.weight, layer.bias)
    return layer(x)


class LayerNorm2d(nn.Module):
    """Layer normalisation over the channels of a BxCxHxW tensor."""

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        channels_last = x.permute(0, 2, 3, 1)
        normalised = F.layer_norm(
            channels_last, self.weight.shape, self.weight, self.bias, self.eps
        )
        return normalised.permute(0, 3, 1, 2)


class MLPBlock(nn.Module):
    """Linear, activation, linear: the feed-forward half of a transformer block."""

    def __init__(self, embedding_dim: int, mlp_dim: int, act: type[nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.lin1 = nn.Linear(embedding_dim, mlp_dim)
        self.lin2 = nn.Linear(mlp_dim, embedding_dim)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        return call_linear(self.lin2, self.act(call_linear(self.lin1, x)))


class MLP(nn.Module):
    """``num_layers`` linear layers with ReLU between them."""

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        output_dim: int,
        num_layers: int,
        sigmoid_output: bool = False,
    ) -> None:
        super().__init__()
        self.num_layers = num_layers
        widths = [input_dim] + [hidden_dim] * (num_layers - 1) + [output_dim]
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))
        self.sigmoid_output = sigmoid_output

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        x = self.layers[-1](x)
        return torch.sigmoid(x) if self.sigmoid_output else x


class LogitFilter(nn.Module):
    """A learned filter of BxMxHxW low-res logits, down and across; it starts as a blur.

    The 4x4 logits of a token are computed from it alone. Where a mask is in doubt, those of a
    small network form a comb with a tooth for each token, which the filter smooths. ``offset`` is
    added to all logits.

    Arguments:
        size: side of the filter in logits, odd.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        blur = torch.tensor([math.comb(size - 1, i) / 2 ** (size - 1) for i in range(size)])
        self.down, self.across = nn.Parameter(blur), nn.Parameter(blur.clone())
        # Not learned but measured on other photos: a network knows its training photos by heart
        # and hardly ever doubts there (training/calibrate.py).
        self.offset: Tensor
        self.register_buffer("offset", torch.zeros(()))
        self.reach = size // 2

    def forward(self, logits: Tensor) -> Tensor:
        if logits.is_cuda:
            return self.by_products(logits)
        height, width = logits.shape[-2:]
        padded = F.pad(logits, [self.reach] * 4, mode="replicate")
        # A convolution of one channel is six times as slow as sums of shifted logits.
        filtered: Any = sum(w * padded[..., i : i + height, :] for i, w in enumerate(self.down))
        parts = (w * filtered[..., i : i + width] for i, w in enumerate(self.across))
        return sum(parts, self.offset)

    def by_products(self, logits: Tensor) -> Tensor:
        """``forward`` as two matrix products: on a GPU each sum is a pass over memory."""
        height, width = logits.shape[-2:]
        return _band(self.down, height) @ (logits @ _band(self.across, width).T) + self.offset


def _band(weights: Tensor, size: int) -> Tensor:
    """The size x size matrix of a filter with K weights, whose ends stand for what is beyond."""
    reach = len(weights) // 2
    first, offsets = (
        torch.arange(start, stop, device=weights.device)
        for start, stop in ((0, size), (-reach, reach + 1))
    )
    places = (first[:, None] + offsets).clamp(0, size - 1)
    return weights.new_zeros(size, size).scatter_add(1, places, weights.expand(size, -1))
