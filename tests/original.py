"""The original segment-anything 1.0 as an oracle, beside our package of the same name.

``python tests/get_original.py`` fetches it. Its torchvision is replaced by a stand-in.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

FOLDER = Path(__file__).parent / ".original"
SUBMODULES = (
    "automatic_mask_generator",
    "build_sam",
    "modeling",
    "modeling.common",
    "modeling.image_encoder",
    "modeling.mask_decoder",
    "modeling.prompt_encoder",
    "modeling.sam",
    "modeling.transformer",
    "predictor",
    "utils.amg",
    "utils.onnx",
    "utils.transforms",
)


@pytest.fixture(scope="session")
def original() -> ModuleType:
    """The original package; skips the test where it was not fetched."""
    if not (FOLDER / "segment_anything").is_dir():
        pytest.skip("the original package is not here: run python tests/get_original.py")
    return original_modules()[""]


@lru_cache(maxsize=1)
def original_modules() -> dict[str, ModuleType]:
    """The original package under "", and its submodules by their names inside it."""
    with own_modules("segment_anything", "torchvision"):
        sys.modules.update(_torchvision())
        sys.path.insert(0, str(FOLDER))
        try:
            package = {name: import_module(f"segment_anything.{name}") for name in SUBMODULES}
            package[""] = import_module("segment_anything")
        finally:
            sys.path.remove(str(FOLDER))
    assert Path(package[""].__file__ or "").is_relative_to(FOLDER), "this is not the original"
    return package


@contextmanager
def own_modules(*packages: str) -> Iterator[None]:
    """Forget what is imported of these packages, and take it back at the end."""

    def take() -> dict[str, ModuleType]:
        names = [name for name in sys.modules if name.split(".")[0] in packages]
        return {name: sys.modules.pop(name) for name in names}

    ours = take()
    try:
        yield
    finally:
        take()
        sys.modules.update(ours)


def _torchvision() -> dict[str, ModuleType]:
    """A module of that name with the few functions that the original asks of it."""
    names = ("torchvision", "ops", "ops.boxes", "transforms", "transforms.functional")
    paths = [name if name == "torchvision" else f"torchvision.{name}" for name in names]
    modules = {path: ModuleType(path) for path in paths}
    boxes = modules["torchvision.ops.boxes"]
    boxes.box_area, boxes.batched_nms = _box_area, _batched_nms
    functional = modules["torchvision.transforms.functional"]
    functional.to_pil_image = Image.fromarray
    functional.resize = lambda image, size: image.resize(size[::-1], Image.Resampling.BILINEAR)
    return modules


def _box_area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Greedy suppression of Nx4 boxes of one category: indices kept, best score first."""
    assert not idxs.any()
    kept: list[int] = []
    for candidate in torch.argsort(scores, descending=True, stable=True).tolist():
        # As torchvision has it: the IoU of two boxes without area is NaN, which is not above.
        if not any(_iou(boxes[candidate], boxes[other]) > iou_threshold for other in kept):
            kept.append(candidate)
    return torch.tensor(kept, dtype=torch.long)


def _iou(a: Tensor, b: Tensor) -> float:
    corners = np.stack([a.double().numpy(), b.double().numpy()])
    width, height = corners[:, 2:].min(0) - corners[:, :2].max(0)
    inside = max(0.0, width) * max(0.0, height)
    union = np.prod(corners[:, 2:] - corners[:, :2], axis=1).sum() - inside
    return inside / union if union > 0 else np.nan
