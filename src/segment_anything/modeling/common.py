"""Small layers, under the original's names."""

from expedit_sam.model.layers import LayerNorm2d, MLPBlock

__all__ = ["LayerNorm2d", "MLPBlock"]
