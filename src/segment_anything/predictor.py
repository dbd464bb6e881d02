"""Prompts to masks on one image, under the original's name."""

from expedit_sam.predictor import SamPredictor
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide

__all__ = ["ResizeLongestSide", "Sam", "SamPredictor"]
