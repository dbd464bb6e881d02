"""The whole network, under the original's name."""

from expedit_sam.model.image_encoder import ImageEncoderViT
from expedit_sam.model.mask_decoder import MaskDecoder
from expedit_sam.model.prompt_encoder import PromptEncoder
from expedit_sam.model.sam import Sam

__all__ = ["ImageEncoderViT", "MaskDecoder", "PromptEncoder", "Sam"]
