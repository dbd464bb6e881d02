"""The mask decoder's transformer, under the original's name."""

from expedit_sam.model.two_way_transformer import (
    Attention,
    TwoWayAttentionBlock,
    TwoWayTransformer,
)
from segment_anything.modeling.common import MLPBlock

__all__ = ["Attention", "MLPBlock", "TwoWayAttentionBlock", "TwoWayTransformer"]
