from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as tree

from expedit_sam.model.sequence_attention import attend_sequences
from tests.sequences import arguments


@pytest.mark.parametrize("positions", [None, 4, 7])
@pytest.mark.parametrize("sized", [False, True])
@torch.no_grad()
def test_in_bfloat16_scores_are_of_32_bits(positions: int | None, sized: bool) -> None:
    low = tree.tree_map_only(Tensor, Tensor.bfloat16, arguments(positions, sized))
    expected = attend_sequences(*tree.tree_map_only(Tensor, Tensor.float, low))
    # What is rounded are weights below 1 and the sums of values.
    difference = (attend_sequences(*low).float() - expected).abs()
    assert difference.max() < 0.025


@pytest.mark.parametrize("sized", [False, True])
@torch.no_grad()
def test_large_windows_in_bfloat16(sized: bool) -> None:
    low = tree.tree_map_only(Tensor, Tensor.bfloat16, arguments(32, sized, (32, 32)))
    expected = attend_sequences(*tree.tree_map_only(Tensor, Tensor.float, low))
    # Scores of 16 bits would make it twice as much.
    difference = attend_sequences(*low).float() - expected
    assert difference.norm() < 0.012 * expected.norm()


def test_gradients_in_bfloat16() -> None:
    given = arguments(4, sized=True)
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        q, *others = tree.tree_map_only(Tensor, lambda part, to=dtype: part.to(to), given)
        q = q.detach().requires_grad_()
        attend_sequences(q, *others).float().square().sum().backward()
        gradients.append(q.grad.float())
    assert (gradients[1] - gradients[0]).norm() < 0.05 * gradients[0].norm()
