from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from expedit_sam.model.fused_attention import attend_fused, attend_in_quarters, has_quarters
from expedit_sam.model.sequence_attention import attend_sequences
from tests.sequences import arguments


@pytest.mark.parametrize(
    ("attend", "window"), [(attend_fused, (4, 5)), (attend_in_quarters, (4, 6))]
)
@pytest.mark.parametrize("positions", [None, 4, 7])
@pytest.mark.parametrize("sized", [False, True])
def test_fused_attention(
    attend: Callable[..., Tensor], window: tuple[int, int], positions: int | None, sized: bool
) -> None:
    given = arguments(positions, sized, window)
    torch.testing.assert_close(attend(*given), attend_sequences(*given))


def test_large_windows_of_even_sides_have_quarters() -> None:
    sizes = [(64, 64), (32, 40), (14, 14), (49, 49), (64, 45)]
    assert [has_quarters(size) for size in sizes] == [True, True, False, False, False]
