"""utils.onnx against the original's, and traced."""

from __future__ import annotations

import itertools
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from segment_anything.utils.onnx import SamOnnxModel

LABELS = ([1, -1], [1, 0, 2, 3], [0, 1, 1, -1], [2, 3])


def inputs(labels: list[int], with_mask: bool, size: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(len(labels))
    return [
        torch.randn(1, 32, 8, 8, generator=generator),
        torch.rand(1, len(labels), 2, generator=generator) * 128,
        torch.tensor([labels], dtype=torch.float32),
        torch.randn(1, 1, 32, 32, generator=generator),
        torch.tensor([float(with_mask)]),
        torch.tensor(size, dtype=torch.float32),
    ]


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize(
    ("single", "stability", "extra"), list(itertools.product([False, True], repeat=3))
)
def test_equals_original(
    original: ModuleType,
    pair: tuple[nn.Module, nn.Module],
    labels: list[int],
    with_mask: bool,
    single: bool,
    stability: bool,
    extra: bool,
) -> None:
    theirs = original.utils.onnx.SamOnnxModel(pair[0], single, stability, extra)
    mine = SamOnnxModel(pair[1], single, stability, extra)
    given = inputs(labels, with_mask, (90, 120))
    expected, found = theirs(*given), mine(*given)
    assert len(found) == len(expected) == (5 if extra else 3)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        # An area or stability score may differ by a pixel that lies on the threshold.
        torch.testing.assert_close(a.float(), b.float(), rtol=1e-4, atol=1e-4)


def test_a_trace_serves_other_prompts_and_image_sizes(pair: tuple[nn.Module, nn.Module]) -> None:
    mine = SamOnnxModel(pair[1], return_single_mask=True, return_extra_metrics=True).eval()
    traced = torch.jit.trace(mine, tuple(inputs([1, -1], True, (90, 120))), check_trace=False)
    given = inputs([1, 0, 2, 3], False, (200, 75))
    for a, b in zip(traced(*given), mine(*given), strict=True):
        torch.testing.assert_close(a, b)


def test_sizes_round_as_the_original(original: ModuleType) -> None:
    for size in ([90, 120], [1, 5000], [333, 334]):
        arguments = (torch.tensor(size), 128)
        expected = original.utils.onnx.SamOnnxModel.resize_longest_image_size(*arguments)
        assert torch.equal(SamOnnxModel.resize_longest_image_size(*arguments), expected)
