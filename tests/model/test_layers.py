from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from expedit_sam.model import layers
from expedit_sam.model.architectures import new_sam
from expedit_sam.model.expedite import expedite
from expedit_sam.model.layers import TokenLinear
from tests.conftest import TINY, randomized


@pytest.fixture
def convolves(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A CPU on which convolutions are the faster way, with two threads."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(layers, "_ONEDNN_IS_FASTER", True)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def operations(layer: nn.Module, x: torch.Tensor) -> set[str]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        layer(x)
    return {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 5, 7, 24), (3, 14, 14, 24), (2, 1, 1, 24), (0, 5, 7, 24)])
@torch.no_grad()
def test_a_convolution_is_the_same_sum(convolves: None, shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer = TokenLinear(24, 40, bias=bias)
    x = torch.randn(shape)
    result, expected = layer(x), nn.Linear.forward(layer, x)
    assert result.shape == expected.shape
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)
    part = x[:, :, : max(1, shape[2] - 2)]  # not contiguous
    torch.testing.assert_close(layer(part), nn.Linear.forward(layer, part), rtol=0, atol=1e-6)


def test_it_is_convolved_only_where_that_is_faster(
    convolves: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, grid = TokenLinear(24, 40), torch.randn(1, 5, 7, 24)
    with torch.no_grad():
        assert "aten::conv2d" in operations(layer, grid)
        assert "aten::conv2d" not in operations(layer, grid[0])
        assert "aten::conv2d" not in operations(layer.bfloat16(), grid.bfloat16())
        layer.float()
        monkeypatch.setattr(layers, "_ONEDNN_IS_FASTER", False)
        assert "aten::conv2d" not in operations(layer, grid)
        monkeypatch.setattr(layers, "_ONEDNN_IS_FASTER", True)
        assert "conv" not in str(torch.jit.trace(layer, grid).inlined_graph)
        torch.set_num_threads(1)
        assert "aten::conv2d" not in operations(layer, grid)
        torch.set_num_threads(2)
    assert "aten::conv2d" not in operations(layer, grid)  # gradients are asked for


@torch.no_grad()
def test_weights_that_change_are_seen(convolves: None) -> None:
    layer, grid = TokenLinear(24, 40), torch.randn(1, 5, 7, 24)
    before = layer(grid)
    layer.weight.mul_(2)
    layer.bias.mul_(2)
    torch.testing.assert_close(layer(grid), 2 * before)


@pytest.mark.parametrize("speed", ["exact", "balanced"])
@torch.no_grad()
def test_an_encoder_of_convolutions_gives_the_same(
    convolves: None, monkeypatch: pytest.MonkeyPatch, speed: str
) -> None:
    sam = randomized(new_sam(TINY))
    expedite(sam, speed)
    pixels = torch.randn(2, 3, TINY.image_size, TINY.image_size)
    result = sam.image_encoder(pixels)
    monkeypatch.setattr(layers, "_ONEDNN_IS_FASTER", False)
    expected = sam.image_encoder(pixels)
    assert (result - expected).abs().max() <= 1e-4 * expected.abs().max()
