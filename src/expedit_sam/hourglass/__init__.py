"""The hourglass (arXiv 2210.01035): its operators on tokens and its setting, without SAM."""

from expedit_sam.hourglass.settings import PRESETS, Hourglass

__all__ = ["PRESETS", "Hourglass"]
