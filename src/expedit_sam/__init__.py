"""Segment Anything, made fast without training."""

from __future__ import annotations

import ctypes
import os
import sys
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


def _keep_freed_memory() -> None:
    """Have glibc use freed memory again instead of asking Linux for new pages, which it clears.

    Who sets glibc's own variables keeps them.
    """
    said = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if sys.platform == "linux" and not said:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda option, value: 0)
        mallopt(-3, 64 * 2**20)  # M_MMAP_THRESHOLD: smaller blocks come from the heap,
        mallopt(-1, 256 * 2**20)  # M_TRIM_THRESHOLD: which keeps so much that is free


_keep_freed_memory()

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
