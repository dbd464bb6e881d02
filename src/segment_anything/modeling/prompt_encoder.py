"""The prompt encoder, under the original's name."""

from expedit_sam.model.prompt_encoder import PositionEmbeddingRandom, PromptEncoder
from segment_anything.modeling.common import LayerNorm2d

__all__ = ["LayerNorm2d", "PositionEmbeddingRandom", "PromptEncoder"]
