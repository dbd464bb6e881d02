from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from expedit_sam import products
from expedit_sam.model.architectures import new_sam
from expedit_sam.model.expedite import expedite
from expedit_sam.model.layers import MLPBlock, call_linear
from expedit_sam.products import activated_linear, add_row_products, row_products
from tests.conftest import TINY, randomized

ONEDNN = "mkldnn::_linear_pointwise"
# The operator refuses it on CPUs without instructions for it.
BFLOAT16 = [torch.bfloat16] if torch.ops.mkldnn._is_mkldnn_bf16_supported() else []

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN"
)


@pytest.fixture
def onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU on which oneDNN is the faster way."""
    monkeypatch.setattr(products, "_ONEDNN_TYPES", {torch.float32, *BFLOAT16})
    monkeypatch.setattr(products, "_LARGE", 1)


def operations(layer: nn.Module, x: torch.Tensor) -> set[str]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        layer(x)
    return {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "shape", [(1, 5, 7, 24), (3, 14, 14, 24), (2, 1, 1, 24), (0, 5, 7, 24), (6, 24)]
)
@torch.no_grad()
def test_onednn_gives_the_same_sum(onednn: None, shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(24, 40, bias=bias)
    x = torch.randn(shape)
    result, expected = call_linear(layer, x), layer(x)
    assert result.shape == expected.shape
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)
    part = x[..., 1:, :]  # not contiguous
    torch.testing.assert_close(call_linear(layer, part), layer(part), rtol=0, atol=1e-6)


def test_onednn_is_asked_only_where_it_is_faster_and_can(
    onednn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, grid = MLPBlock(24, 40), torch.randn(1, 5, 7, 24)
    with torch.no_grad():
        assert ONEDNN in operations(layer, grid)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(grid).dtype == torch.bfloat16
        assert ONEDNN not in operations(layer.double(), grid.double())
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(products, "_ONEDNN_TYPES", {torch.float32})
            assert ONEDNN not in operations(layer.bfloat16(), grid.bfloat16())
        layer.float()
        assert "mkldnn" not in str(torch.jit.trace(layer, grid).inlined_graph)
        with FlopCounterMode(display=False) as counter:
            layer(grid)
        assert counter.get_total_flops() == 2 * 2 * 5 * 7 * 24 * 40
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(products, "_ONEDNN_TYPES", set())
            assert ONEDNN not in operations(layer, grid)
    assert layer(grid).requires_grad


@pytest.mark.parametrize("dtype", BFLOAT16)
@pytest.mark.parametrize("shape", [(1, 5, 7, 24), (0, 5, 7, 24), (6, 24)])
@torch.no_grad()
def test_sums_in_bfloat16(onednn: None, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, x = MLPBlock(24, 40), torch.randn(shape)
    expected = layer(x)
    layer, x = layer.to(dtype), x.to(dtype)
    assert ONEDNN in operations(layer, x)
    torch.testing.assert_close(layer(x).float(), expected, rtol=0, atol=1e-2)


@torch.no_grad()
def test_weights_that_change_are_seen(onednn: None) -> None:
    layer, grid = nn.Linear(24, 40), torch.randn(1, 5, 7, 24)
    before = call_linear(layer, grid)
    layer.weight.mul_(2)
    layer.bias.mul_(2)
    torch.testing.assert_close(call_linear(layer, grid), 2 * before)


@torch.no_grad()
def test_what_is_in_a_linear_layers_place_is_called(onednn: None) -> None:
    layer, grid = nn.Linear(24, 40), torch.randn(1, 5, 7, 24)
    seen: list[torch.Size] = []
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    call_linear(layer, grid)
    assert seen == [(1, 5, 7, 40)]
    assert call_linear(nn.Identity(), grid) is grid


@pytest.mark.parametrize("speed", ["exact", "balanced"])
@torch.no_grad()
def test_an_encoder_by_onednn_gives_the_same(
    onednn: None, monkeypatch: pytest.MonkeyPatch, speed: str
) -> None:
    sam = randomized(new_sam(TINY))
    expedite(sam, speed)
    pixels = torch.randn(2, 3, TINY.image_size, TINY.image_size)
    result = sam.image_encoder(pixels)
    monkeypatch.setattr(products, "_ONEDNN_TYPES", set())
    expected = sam.image_encoder(pixels)
    assert (result - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("batch", [0, 1, 3])
@torch.no_grad()
def test_products_of_rows(onednn: None, batch: int, turned: bool) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(batch, 7, 24), torch.randn(batch, 40, 24)
    if turned:
        y = y.transpose(1, 2).contiguous().transpose(1, 2)
    expected, there = x @ y.transpose(1, 2), torch.randn(batch, 9, 40)
    torch.testing.assert_close(row_products(x, y), expected)
    sums = there.clone()
    add_row_products(sums[:, 1:8], x, y)
    there[:, 1:8] += expected
    torch.testing.assert_close(sums, there)
    add_row_products(sums, torch.zeros(batch, 9, 24), y, 0.5)
    torch.testing.assert_close(sums, there)
    turned_x = x.transpose(1, 2).contiguous().transpose(1, 2)
    add_row_products(sums[:, 1:8], turned_x, y, -0.5)
    torch.testing.assert_close(sums[:, 1:8], there[:, 1:8] - 0.5 * expected)


class Products(nn.Module):
    def __init__(self, y: torch.Tensor) -> None:
        super().__init__()
        self.y = y

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return row_products(x, self.y)


@torch.no_grad()
def test_onednn_gets_no_weight_with_gaps(onednn: None) -> None:
    # It is a thousand times as slow with one, and its results are right.
    x, wide = torch.randn(2, 7, 24), torch.randn(2, 40, 48)
    gaps = Products(wide[..., :24])
    assert {ONEDNN, "aten::clone"} <= operations(gaps, x)
    assert "aten::clone" not in operations(Products(wide[..., :24].contiguous()), x)
    torch.testing.assert_close(gaps(x), x @ wide[..., :24].transpose(1, 2))


@torch.no_grad()
def test_onednn_gets_no_transposed_rows_to_add(onednn: None) -> None:
    # It would copy them first.
    class Sum(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            add_row_products(there, x, y)
            return there

    there, y = torch.zeros(2, 7, 40), torch.randn(2, 40, 24)
    assert ONEDNN in operations(Sum(), torch.randn(2, 7, 24))
    assert ONEDNN not in operations(Sum(), torch.randn(2, 24, 7).transpose(1, 2))


@pytest.mark.parametrize("activation", [nn.GELU(), nn.GELU(approximate="tanh"), nn.ReLU()])
@torch.no_grad()
def test_activated_linear(onednn: None, activation: nn.Module) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 40), torch.randn(2, 5, 4, 24)
    result = activated_linear(x, layer.weight, layer.bias, activation)
    torch.testing.assert_close(result, activation(layer(x)), rtol=0, atol=1e-5)
