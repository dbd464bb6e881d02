"""Whole networks on every backend, as users export them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from expedit_sam import build_sam, expedite
from expedit_sam.evaluate.agreement import agreement
from expedit_sam.export.runtime import SamPredictor as ExportedPredictor
from expedit_sam.export.write import export_sam
from expedit_sam.images import read_image
from expedit_sam.predictor import SamPredictor
from tests.widened import widened

PHOTO = Path(__file__).parents[2] / "docs" / "images" / "coffee.jpg"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "speed", "format"),
    [
        ("vit_b", "balanced", "onnx"),
        ("vit_b", "exact", "openvino"),
        ("vit_s", "balanced", "openvino"),
        ("vit_s", "exact", "onnx"),
    ],
)
def test_same_embedding_and_masks(tmp_path: Path, model: str, speed: str, format: str) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime" if format == "onnx" else format)
    sam = build_sam("vit_s")
    if model != "vit_s":
        # Untrained tokens are about as far from many clusters: rounding would decide.
        sam = widened(sam, model)
    expedite(sam, speed)
    export_sam(sam, tmp_path, model=model, format=format)
    ours, theirs = SamPredictor(sam), ExportedPredictor(tmp_path)
    kept = agreement(ours, theirs, [read_image(PHOTO)], points_per_side=3)
    expected = ours.get_image_embedding().numpy()
    error = np.abs(theirs.get_image_embedding() - expected).max() / np.abs(expected).max()
    print(f"{model} {speed} {format}: embedding {error:.1e}, masks {kept:.5f}")
    assert error <= 1e-3
    assert kept >= 0.999
