"""The network's parts, under the original's and the hourglass fork's names."""

from segment_anything.modeling.hourglass_image_encoder import HourglassImageEncoderViT
from segment_anything.modeling.image_encoder import ImageEncoderViT
from segment_anything.modeling.mask_decoder import MaskDecoder
from segment_anything.modeling.prompt_encoder import PromptEncoder
from segment_anything.modeling.sam import Sam
from segment_anything.modeling.transformer import TwoWayTransformer

__all__ = [
    "HourglassImageEncoderViT",
    "ImageEncoderViT",
    "MaskDecoder",
    "PromptEncoder",
    "Sam",
    "TwoWayTransformer",
]
