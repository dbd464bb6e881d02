"""The whole of vit_b, with random weights, against the original."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import segment_anything
from tests.conftest import randomized

PROMPTS = [
    {"point_coords": np.array([[400, 300]]), "point_labels": np.array([1])},
    {"box": np.array([100, 120, 500, 420])},
    {
        "point_coords": np.array([[400, 300], [50, 60]]),
        "point_labels": np.array([1, 0]),
        "box": np.array([100, 120, 500, 420]),
        "mask_input": np.random.default_rng(0).normal(0, 5, (1, 256, 256)),
        "multimask_output": False,
    },
]


@pytest.mark.slow
def test_vit_b_equals_original(original: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = randomized(original.build_sam_vit_b())
    path = tmp_path / "vit_b.pth"
    torch.save(theirs.state_dict(), path)
    mine = segment_anything.build_sam_vit_b(checkpoint=str(path))
    image = np.random.default_rng(1).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    predictors = original.SamPredictor(theirs), segment_anything.SamPredictor(mine)
    for predictor in predictors:
        predictor.set_image(image)
    expected, found = (predictor.get_image_embedding() for predictor in predictors)
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    for prompt in PROMPTS:
        expected, found = (p.predict(**prompt, return_logits=True) for p in predictors)
        for a, b in zip(found, expected, strict=True):
            assert np.abs(a - b).max() <= 1e-4 * np.abs(b).max()
