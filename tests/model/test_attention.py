from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from expedit_sam.hourglass.contraction import ClusterTraits
from expedit_sam.model import sequence_attention
from expedit_sam.model.attention import (
    Attention,
    attend_grid,
    merge_windows,
    partition_windows,
)
from expedit_sam.model.relative_positions import relative_positions

PLAIN = ClusterTraits()


def attention(dim: int = 16, heads: int = 2, size: tuple[int, int] | None = (6, 6)) -> Attention:
    torch.manual_seed(0)
    layer = Attention(dim, heads, use_rel_pos=size is not None, input_size=size)
    if size is not None:
        torch.nn.init.normal_(layer.rel_pos_h)
        torch.nn.init.normal_(layer.rel_pos_w)
    return layer.requires_grad_(False)


def by_the_formula(
    layer: Attention, x: Tensor, traits: ClusterTraits = PLAIN, origin: Tensor | None = None
) -> Tensor:
    """softmax(q k / sqrt(d) + q r_vertical + q r_horizontal + log size) v, entry by entry."""
    batch, height, width, channels = x.shape
    heads, depth = layer.num_heads, channels // layer.num_heads
    q, k, v = layer.qkv(x).view(batch, height, width, 3, heads, depth).unbind(3)
    scores = torch.einsum("byxhd,bvuhd->bhyxvu", q, k) / depth**0.5
    if layer.use_rel_pos:
        vertical = relative_positions(layer.rel_pos_h, height)
        horizontal = relative_positions(layer.rel_pos_w, width)
        scores = scores + torch.einsum("byxhd,yvd->bhyxv", q, vertical)[..., None]
        scores = scores + torch.einsum("byxhd,xud->bhyxu", q, horizontal)[..., None, :]
    if traits.log_sizes is not None:
        scores = scores + traits.log_sizes[:, None, None, None]
    if traits.value_scales is not None:
        nearer = torch.lerp(origin, x, traits.value_scales[..., None])
        v = layer.qkv(nearer).view(batch, height, width, 3, heads, depth)[:, :, :, 2]
    weights = scores.flatten(4).softmax(dim=-1).view_as(scores)
    return layer.proj(torch.einsum("bhyxvu,bvuhd->byxhd", weights, v).flatten(3))


@settings(max_examples=30)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 14))
def test_windows_merge_back(height: int, width: int, window: int) -> None:
    x = torch.arange(2 * height * width * 3).view(2, height, width, 3)
    windows = partition_windows(x, window)
    assert windows.shape[1:] == (window, window, 3)
    assert torch.equal(merge_windows(windows, window, (height, width)), x)
    assert windows.sum() == x.sum()  # padded with zeros


@pytest.mark.parametrize("size", [None, (6, 6), (5, 9)])
@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_whole_grid(size: tuple[int, int] | None, sized: bool, scaled: bool) -> None:
    layer, x, origin = attention(size=size), torch.randn(2, 6, 6, 16), torch.randn(16)
    traits = ClusterTraits(
        torch.randn(2, 6, 6) if sized else None, torch.rand(2, 6, 6) if scaled else None
    )
    torch.testing.assert_close(
        attend_grid(layer, x, 0, traits, origin), by_the_formula(layer, x, traits, origin)
    )


@pytest.mark.parametrize("budget", [1, 100, 1000, 10**9])
@pytest.mark.parametrize("threads", [1, 3, 4])
def test_steps_of_any_size_give_the_same(
    monkeypatch: pytest.MonkeyPatch, budget: int, threads: int
) -> None:
    monkeypatch.setitem(sequence_attention._SCORES_PER_STEP, "cpu", budget)
    monkeypatch.setattr(sequence_attention, "_QUERIES_PER_THREAD", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    layer, x = attention(), torch.randn(3, 6, 6, 16)
    torch.testing.assert_close(attend_grid(layer, x), by_the_formula(layer, x))


def test_padded_positions_act_as_zero_tokens() -> None:
    layer, x = attention(size=(4, 4)), torch.randn(1, 6, 7, 16)
    padded = torch.zeros(1, 8, 8, 16)
    padded[:, :6, :7] = x
    windows = by_the_formula(layer, partition_windows(padded, 4))
    expected = merge_windows(windows, 4, (8, 8))[:, :6, :7]
    torch.testing.assert_close(attend_grid(layer, x, 4), expected)


def test_padded_positions_have_no_traits() -> None:
    layer, x = attention(size=(4, 4)), torch.randn(1, 6, 7, 16)
    usual = ClusterTraits(torch.zeros(1, 6, 7), torch.ones(1, 6, 7))
    torch.testing.assert_close(
        attend_grid(layer, x, 4, usual, torch.randn(16)), attend_grid(layer, x, 4)
    )


def test_a_key_of_size_n_counts_as_n_equal_keys() -> None:
    layer = attention(size=None)
    x = torch.randn(1, 1, 3, 16)
    repeated = x[:, :, [0, 1, 1, 1, 2]]
    sizes = torch.tensor([[[1.0, 3.0, 1.0]]])
    merged = attend_grid(layer, x, 0, ClusterTraits(sizes.log()))
    torch.testing.assert_close(merged, attend_grid(layer, repeated)[:, :, [0, 1, 4]])


def test_a_wrapped_projection_is_called() -> None:
    class Wrapper(nn.Module):
        def __init__(self, qkv: nn.Module) -> None:
            super().__init__()
            self.qkv = qkv

        def forward(self, x: Tensor) -> Tensor:
            queries, keys, values = self.qkv(x).chunk(3, dim=3)
            return torch.cat([queries, keys, values], dim=3)

    layer = Attention(32, 4, use_rel_pos=True, input_size=(7, 7)).requires_grad_(False)
    nn.init.normal_(layer.qkv.bias)
    x = torch.randn(2, 10, 9, 32)
    expected = attend_grid(layer, x, 7)
    layer.qkv = Wrapper(layer.qkv)
    torch.testing.assert_close(attend_grid(layer, x, 7), expected)


def test_relative_positions_may_learn_alone() -> None:
    layer = Attention(32, 4, use_rel_pos=True, input_size=(6, 6)).requires_grad_(False)
    layer.rel_pos_h.requires_grad_()
    layer(torch.randn(1, 6, 6, 32)).square().sum().backward()
    assert layer.rel_pos_h.grad.any()


def test_a_layer_that_learns_can_be_traced() -> None:
    layer = Attention(32, 4, use_rel_pos=True, input_size=(6, 6))
    x = torch.randn(1, 6, 6, 32)
    torch.testing.assert_close(torch.jit.trace(layer, x)(x), layer(x))
