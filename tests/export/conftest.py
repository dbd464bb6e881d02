from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from expedit_sam.hourglass.settings import resolve
from expedit_sam.model.architectures import new_sam
from expedit_sam.model.sam import Sam
from tests.conftest import TINY, randomized

Export = Callable[..., tuple[Sam, Path]]


def small_sam(speed: str = "exact", seed: int = 0) -> Sam:
    torch.manual_seed(seed)
    sam = randomized(new_sam(TINY), seed)
    sam.image_encoder.hourglass = resolve(speed)
    return sam


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """A small network and the folder that it was exported to; each is written once."""
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package)
    from expedit_sam.export.write import export_sam

    @cache
    def written(speed: str, format: str, precision: str) -> tuple[Sam, Path]:
        pytest.importorskip(format)
        sam = small_sam(speed)
        folder = tmp_path_factory.mktemp("exported")
        export_sam(sam, folder, model="vit_s", format=format, precision=precision)
        return sam, folder

    def exported(
        speed: str = "balanced", format: str = "onnx", precision: str = "float32"
    ) -> tuple[Sam, Path]:
        return written(speed, format, precision)

    return exported
