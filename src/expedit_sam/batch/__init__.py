"""Many images: folders and data sets to masks in Parquet, in one process or on Ray."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from expedit_sam.batch.on_ray import segment
    from expedit_sam.batch.task import Task

__all__ = ["Task", "segment"]

# Loaded on first use: tasks that read images or make masks do without PyTorch.
_HOMES = {"Task": "expedit_sam.batch.task", "segment": "expedit_sam.batch.on_ray"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
