"""The mask decoder, under the original's name."""

from expedit_sam.model.layers import MLP
from expedit_sam.model.mask_decoder import MaskDecoder
from segment_anything.modeling.common import LayerNorm2d

__all__ = ["MLP", "LayerNorm2d", "MaskDecoder"]
