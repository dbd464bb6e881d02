"""Small networks of ours and of the original's, with the same weights."""

from __future__ import annotations

from functools import partial
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

import segment_anything
from expedit_sam.model.architectures import ARCHITECTURES, Architecture

SMALL = Architecture(
    embed_dim=32,
    depth=3,
    num_heads=2,
    global_attn_indexes=(1,),
    window_size=3,
    image_size=128,
    prompt_embed_dim=32,
    decoder_heads=4,
    decoder_mlp_dim=48,
    iou_head_hidden_dim=24,
)


def small_sam(modeling: ModuleType) -> nn.Module:
    """A small network from the parts that a ``modeling`` module offers."""
    return modeling.Sam(
        image_encoder=modeling.ImageEncoderViT(
            img_size=128,
            patch_size=16,
            embed_dim=32,
            depth=3,
            num_heads=2,
            mlp_ratio=4,
            out_chans=32,
            qkv_bias=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=3,
            global_attn_indexes=[1],
        ),
        prompt_encoder=modeling.PromptEncoder(
            embed_dim=32,
            image_embedding_size=(8, 8),
            input_image_size=(128, 128),
            mask_in_chans=16,
        ),
        mask_decoder=modeling.MaskDecoder(
            transformer_dim=32,
            transformer=modeling.TwoWayTransformer(
                depth=2, embedding_dim=32, num_heads=4, mlp_dim=48
            ),
            num_multimask_outputs=3,
            iou_head_depth=3,
            iou_head_hidden_dim=24,
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    ).eval()


def stir(module: nn.Module, seed: int = 0) -> None:
    """Random numbers for the parameters that start at zero, so that no mistake in them hides."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.normal_(generator=generator)


@pytest.fixture(scope="session")
def pair(original: ModuleType) -> tuple[nn.Module, nn.Module]:
    """The original's small network and ours, with its weights."""
    torch.manual_seed(0)
    theirs = small_sam(original.modeling)
    stir(theirs)
    ours = small_sam(segment_anything.modeling)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs, ours


@pytest.fixture(scope="session")
def image() -> np.ndarray:
    """90x120x3: blobs of a few colours."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (9, 12, 3), dtype=np.uint8)
    return coarse.repeat(10, axis=0).repeat(10, axis=1)


@pytest.fixture
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """The official names stand for small networks."""
    for name in ("vit_b", "vit_l", "vit_h"):
        monkeypatch.setitem(ARCHITECTURES, name, SMALL)
