"""Segment everything: a grid of points, the masks they give, and what is worth keeping."""

from expedit_sam.everything.generator import SamAutomaticMaskGenerator

__all__ = ["SamAutomaticMaskGenerator"]
