"""Prompts to masks as one graph for ONNX, under the original's name."""

from expedit_sam.everything.filters import calculate_stability_score
from expedit_sam.export.decoder import SamOnnxModel
from expedit_sam.model.sam import Sam

__all__ = ["Sam", "SamOnnxModel", "calculate_stability_score"]
