from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from expedit_sam.model.layers import LogitFilter
from expedit_sam.model.upscaling import Upscaling, as_matrix


def test_transposed_convolution_is_a_matrix_product() -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(8, 6, kernel_size=2, stride=2).requires_grad_(False)
    x = torch.randn(2, 8, 3, 5)
    blocks = F.linear(x.permute(0, 2, 3, 1), *as_matrix(layer))
    image = blocks.view(2, 3, 5, 2, 2, 6).permute(0, 5, 1, 3, 2, 4).reshape(2, 6, 6, 10)
    torch.testing.assert_close(image, layer(x))


@torch.no_grad()
def test_a_part_reaches_as_far_as_the_filter_looks() -> None:
    layers = nn.Sequential(
        nn.ConvTranspose2d(8, 4, kernel_size=2, stride=2),
        nn.LayerNorm(4),
        nn.GELU(),
        nn.ConvTranspose2d(4, 2, kernel_size=2, stride=2),
        nn.GELU(),
    )
    plain = Upscaling.of(layers, None, (6, 9))
    assert plain.part(None) == (6, 9)
    assert plain.part((8, 9)) == (2, 3)
    filtered = Upscaling.of(layers, LogitFilter(5), (6, 9))
    assert filtered.part((8, 9)) == (3, 3)
    assert filtered.part((24, 36)) == (6, 9)
