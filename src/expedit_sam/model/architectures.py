"""The sizes SAM comes in, and networks of those sizes with fresh weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import nn

from expedit_sam.model.image_encoder import ImageEncoderViT
from expedit_sam.model.mask_decoder import MaskDecoder
from expedit_sam.model.prompt_encoder import PromptEncoder
from expedit_sam.model.sam import Sam
from expedit_sam.model.two_way_transformer import TwoWayTransformer


@dataclass(frozen=True)
class Architecture:
    """Everything that fixes the shapes of a network's parameters.

    Attributes:
        embed_dim, depth, num_heads, global_attn_indexes, window_size, use_rel_pos: the image
            encoder (see ``ImageEncoderViT``).
        image_size, patch_size: side of the input and of a patch in pixels.
        prompt_embed_dim: channels of image and prompt embeddings.
        decoder_heads, decoder_mlp_dim: attention heads and feed-forward width of the decoder's
            transformer.
        iou_head_hidden_dim, filter_size: see ``MaskDecoder``.
    """

    embed_dim: int
    depth: int
    num_heads: int
    global_attn_indexes: tuple[int, ...]
    window_size: int = 14
    use_rel_pos: bool = True
    image_size: int = 1024
    patch_size: int = 16
    prompt_embed_dim: int = 256
    decoder_heads: int = 8
    decoder_mlp_dim: int = 2048
    iou_head_hidden_dim: int = 256
    filter_size: int = 0


ARCHITECTURES = {
    # SAM's structure, small: a ViT-S on 49 x 49 tokens and half as wide a decoder.
    "vit_s": Architecture(
        384,
        12,
        6,
        (2, 5, 8, 11),
        image_size=784,
        prompt_embed_dim=128,
        decoder_heads=4,
        decoder_mlp_dim=512,
        iou_head_hidden_dim=128,
        filter_size=5,
    ),
    "vit_b": Architecture(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": Architecture(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": Architecture(1280, 32, 16, (7, 15, 23, 31)),
}


def new_sam(architecture: Architecture) -> Sam:
    """A network of this architecture with fresh random weights, in evaluation mode."""
    side = architecture.image_size // architecture.patch_size
    channels = architecture.prompt_embed_dim
    sam = Sam(
        image_encoder=ImageEncoderViT(
            img_size=architecture.image_size,
            patch_size=architecture.patch_size,
            embed_dim=architecture.embed_dim,
            depth=architecture.depth,
            num_heads=architecture.num_heads,
            out_chans=channels,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=architecture.use_rel_pos,
            window_size=architecture.window_size,
            global_attn_indexes=architecture.global_attn_indexes,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=channels,
            image_embedding_size=(side, side),
            input_image_size=(architecture.image_size, architecture.image_size),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=channels,
            transformer=TwoWayTransformer(
                depth=2,
                embedding_dim=channels,
                num_heads=architecture.decoder_heads,
                mlp_dim=architecture.decoder_mlp_dim,
            ),
            iou_head_hidden_dim=architecture.iou_head_hidden_dim,
            filter_size=architecture.filter_size,
        ),
    )
    return sam.eval()
