from __future__ import annotations

import pytest
import torch

from expedit_sam.model.layers import LogitFilter


@pytest.mark.parametrize("shape", [(2, 3, 9, 12), (1, 1, 2, 3)])
def test_filter_by_products_is_the_filter(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = LogitFilter(5)
    layer.down.data.add_(0.1 * torch.randn(5))
    layer.offset.fill_(0.3)
    logits = torch.randn(shape)
    results = []
    for method in (layer.forward, layer.by_products):
        layer.zero_grad()
        result = method(logits)
        result.square().sum().backward()
        results.append((result, layer.down.grad, layer.across.grad))
    torch.testing.assert_close(*results)
