from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as tree

from expedit_sam.model.sequence_attention import (
    attend_fused,
    attend_sequences,
    relative_positions,
)

Tables = tuple[Tensor, Tensor]
Arguments = tuple[Tensor, Tensor, Tensor, Tables | None, tuple[int, int], Tensor | None]


def arguments(positions: int | None, sized: bool) -> Arguments:
    """Of six sequences of 4x5 tokens, with relative positions of a grid of this size."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 6, 4 * 5, 8)
    tables: Tables | None = None
    if positions is not None:
        tables = (torch.randn(2 * positions - 1, 8), torch.randn(2 * positions - 1, 8))
    key_bias = torch.randn(6, 20) if sized else None
    return q, k, v, tables, (4, 5), key_bias


@pytest.mark.parametrize("positions", [None, 4, 7])
@pytest.mark.parametrize("sized", [False, True])
def test_fused_attention(positions: int | None, sized: bool) -> None:
    given = arguments(positions, sized)
    fused, plain = attend_fused(*given), attend_sequences(*given)
    torch.testing.assert_close(fused, plain)


@pytest.mark.parametrize("positions", [None, 4, 7])
@pytest.mark.parametrize("sized", [False, True])
@torch.no_grad()
def test_in_bfloat16_scores_are_of_32_bits(positions: int | None, sized: bool) -> None:
    low = tree.tree_map_only(Tensor, Tensor.bfloat16, arguments(positions, sized))
    expected = attend_sequences(*tree.tree_map_only(Tensor, Tensor.float, low))
    # What is rounded are weights below 1 and the sums of values.
    difference = (attend_sequences(*low).float() - expected).abs()
    assert difference.max() < 0.025


def test_gradients_in_bfloat16() -> None:
    given = arguments(4, sized=True)
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        q, *others = tree.tree_map_only(Tensor, lambda part, to=dtype: part.to(to), given)
        q = q.detach().requires_grad_()
        attend_sequences(q, *others).float().square().sum().backward()
        gradients.append(q.grad.float())
    assert (gradients[1] - gradients[0]).norm() < 0.05 * gradients[0].norm()


def test_tables_of_another_length_are_interpolated() -> None:
    table = torch.linspace(-1, 1, 27)[:, None].expand(27, 4)
    places = relative_positions(table, 9)
    assert places.shape == (9, 9, 4)
    # Further right keys lie at smaller relative positions.
    assert (places[0, 1:, 0] < places[0, :-1, 0]).all()
    torch.testing.assert_close(places[3, 3], torch.zeros(4), atol=1e-6, rtol=0)
