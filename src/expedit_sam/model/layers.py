"""The small layers that every part of the network shares."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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


def _onednn_is_faster() -> bool:
    """Whether this CPU multiplies float32 faster by oneDNN (convolutions) than by MKL (the rest).

    MKL is Intel's; on AMD's CPUs with AVX-512 it reaches two thirds to three quarters of
    oneDNN's rate.
    """
    if not hasattr(torch.cpu, "get_capabilities"):  # an older PyTorch
        return False
    cpu = torch.cpu.get_capabilities()
    return cpu.get("cpu_name", "").startswith("AMD") and bool(cpu.get("avx512_f"))


_ONEDNN_IS_FASTER = _onednn_is_faster()


class TokenLinear(nn.Linear):
    """A linear layer on tokens, which for a grid of them may be computed as a 1x1 convolution."""

    def forward(self, x: Tensor) -> Tensor:
        if not _is_better_convolved(x):
            return super().forward(x)
        kernel = self.weight[:, :, None, None]
        return F.conv2d(x.permute(0, 3, 1, 2), kernel, self.bias).permute(0, 2, 3, 1)


def _is_better_convolved(x: Tensor) -> bool:
    return (
        _ONEDNN_IS_FASTER
        # A graph is to show what is meant.
        and not (torch.compiler.is_compiling() or torch.jit.is_tracing())
        and (x.ndim, x.dtype, x.device.type) == (4, torch.float32, "cpu")
        and not torch.is_grad_enabled()
        and torch.get_num_threads() > 1  # with one PyTorch hands 1x1 convolutions to MKL too
    )


class MLPBlock(nn.Module):
    """Linear, activation, linear: the feed-forward half of a transformer block."""

    def __init__(self, embedding_dim: int, mlp_dim: int, act: type[nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.lin1 = TokenLinear(embedding_dim, mlp_dim)
        self.lin2 = TokenLinear(mlp_dim, embedding_dim)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(self.act(self.lin1(x)))


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
