"""Segment Anything, made fast without training."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from expedit_sam.build import build_sam
    from expedit_sam.everything import SamAutomaticMaskGenerator
    from expedit_sam.hourglass import Hourglass
    from expedit_sam.model.expedite import expedite
    from expedit_sam.predictor import SamPredictor

# PyTorch's large blocks in large pages, where the system grants them (docs/decisions.md).
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

__all__ = ["Hourglass", "SamAutomaticMaskGenerator", "SamPredictor", "build_sam", "expedite"]

# Loaded on first use, so that importing the package does not import PyTorch.
_HOMES = {
    "Hourglass": "expedit_sam.hourglass",
    "SamAutomaticMaskGenerator": "expedit_sam.everything",
    "SamPredictor": "expedit_sam.predictor",
    "build_sam": "expedit_sam.build",
    "expedite": "expedit_sam.model.expedite",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
