"""Segment everything, under the original's name."""

from expedit_sam.everything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam
from segment_anything.predictor import SamPredictor
from segment_anything.utils.amg import *  # noqa: F403 (the original's module shows them too)

__all__ = ["Sam", "SamAutomaticMaskGenerator", "SamPredictor"]
