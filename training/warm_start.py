"""Start a fresh ``vit_s``: DINOv2 ViT-S/14 as encoder, a decoder that can find its click."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from expedit_sam.model.architectures import ARCHITECTURES, new_sam
from expedit_sam.model.image_encoder import ImageEncoderViT
from expedit_sam.model.mask_decoder import MaskDecoder
from expedit_sam.model.sam import Sam
from expedit_sam.model.two_way_transformer import Attention

# Gain of the shared query and key projections: a click's score at its own place is about 10
# above that of far places, enough for the softmax to look there from the first step.
LOCAL_ATTENTION_GAIN = 2.7
# Gain of the image's attention to the prompt: low, so that how much an image token takes from a
# click falls smoothly with its distance.
GRADED_ATTENTION_GAIN = 1.3
# Each head of that attention looks this far beside the click, as a share of the image.
HEAD_OFFSET = 0.04


def warm_started_sam(dinov2: Path, image_size: int | None = None, seed: int = 0) -> Sam:
    """A ``vit_s`` with DINOv2's encoder and a decoder started so that it learns fast."""
    torch.manual_seed(seed)
    architecture = ARCHITECTURES["vit_s"]
    sam = new_sam(replace(architecture, image_size=image_size or architecture.image_size))
    weights = {name: tensor.float() for name, tensor in load_file(dinov2).items()}
    load_encoder(sam.image_encoder, weights)
    start_decoder(sam)
    return sam


@torch.no_grad()
def load_encoder(encoder: ImageEncoderViT, weights: dict[str, Tensor]) -> None:
    """Map DINOv2's weights onto SAM's plain ViT; the neck is left alone.

    The class token is dropped; layer scale is folded into the layers before it; DINOv2's last
    LayerNorm has no counterpart.
    """
    projection = encoder.patch_embed.proj
    kernel = weights["embeddings.patch_embeddings.projection.weight"]
    projection.weight.copy_(resize_patch_kernel(kernel, projection.kernel_size[0]))
    projection.bias.copy_(weights["embeddings.patch_embeddings.projection.bias"])

    positions = weights["embeddings.position_embeddings"][:, 1:]
    side = math.isqrt(positions.shape[1])
    grid = positions.view(1, side, side, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(grid, size=encoder.pos_embed.shape[1:3], mode="bicubic")
    encoder.pos_embed.copy_(resized.permute(0, 2, 3, 1))

    for i, block in enumerate(encoder.blocks):
        layer = {
            name.removeprefix(f"encoder.layer.{i}."): tensor
            for name, tensor in weights.items()
            if name.startswith(f"encoder.layer.{i}.")
        }
        scale1, scale2 = layer["layer_scale1.lambda1"], layer["layer_scale2.lambda1"]
        for kind in ("weight", "bias"):
            qkv = [layer[f"attention.{part}_proj.{kind}"] for part in "qkv"]
            getattr(block.attn.qkv, kind).copy_(torch.cat(qkv))
            getattr(block.norm1, kind).copy_(layer[f"norm1.{kind}"])
            getattr(block.norm2, kind).copy_(layer[f"norm2.{kind}"])
            getattr(block.mlp.lin1, kind).copy_(layer[f"mlp.fc1.{kind}"])
        block.attn.proj.weight.copy_(scale1[:, None] * layer["attention.o_proj.weight"])
        block.attn.proj.bias.copy_(scale1 * layer["attention.o_proj.bias"])
        block.mlp.lin2.weight.copy_(scale2[:, None] * layer["mlp.fc2.weight"])
        block.mlp.lin2.bias.copy_(scale2 * layer["mlp.fc2.bias"])


def resize_patch_kernel(kernel: Tensor, size: int) -> Tensor:
    """Oxcxpxp to Oxcxsizexsize so that an upscaled patch gives the response of the patch itself.

    With x' = B x the bilinear upscaling, w' = pinv(B^T) w gives w' . x' = w . x (FlexiViT,
    arXiv 2212.08013, section 3.4).
    """
    patch = kernel.shape[-1]
    basis = torch.eye(patch * patch).view(-1, 1, patch, patch)
    upscaled = F.interpolate(basis, size=size, mode="bilinear", align_corners=False)
    upscaling = upscaled.view(patch * patch, size * size)  # B^T
    resized = kernel.flatten(2) @ torch.linalg.pinv(upscaling).T
    return resized.unflatten(2, (size, size))


@torch.no_grad()
def start_neck(neck: nn.Sequential, tokens: Tensor) -> None:
    """Start the neck as a projection on the principal components of Nxchannels last tokens.

    Channels are brought to unit variance first and the direction of the mean token is left out
    (it is more than half of every token), so that image embeddings start with DINOv2's
    similarities; the 3x3 convolution starts as the identity.
    """
    scale = tokens.std(dim=0).clamp_min(1e-4)
    mean = F.normalize(tokens.mean(dim=0) / scale, dim=0)
    centred = (tokens - tokens.mean(dim=0)) / scale
    covariance = centred.T @ centred / len(centred)
    channels = neck[0].out_channels
    components = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :channels].T
    components = components - (components @ mean)[:, None] * mean
    mixing = nn.init.orthogonal_(torch.empty(channels, channels))  # no channel dominates LayerNorm
    neck[0].weight.copy_((mixing @ components / scale)[:, :, None, None])
    nn.init.normal_(neck[2].weight, std=0.01)
    neck[2].weight[:, :, 1, 1] += torch.eye(channels)


@torch.no_grad()
def look_beside(attention: Attention, frequencies: Tensor) -> None:
    """Move what each head takes for the click's place a little, each head to another side.

    Together the heads then tell an image token on which side of it the click is. A position moved
    by d has its sines and cosines turned by the angle of d, so the keys' projection is turned.
    """
    keys = attention.k_proj.weight.unflatten(0, (attention.num_heads, -1))
    for head in range(attention.num_heads):
        angle = torch.tensor(math.pi * (2 * head / attention.num_heads + 0.25))
        offset = HEAD_OFFSET * torch.stack([angle.cos(), angle.sin()])
        turn = 2 * math.pi * 2 * offset @ frequencies
        sines, cosines = keys[head].chunk(2, dim=-1)
        keys[head] = torch.cat(
            [sines * turn.cos() - cosines * turn.sin(), sines * turn.sin() + cosines * turn.cos()],
            dim=-1,
        )


@torch.no_grad()
def start_decoder(sam: Sam) -> None:
    """Start the decoder so that what a click sees reaches the mask's kernel from the first step.

    A click and its own place in the image attend to each other; a token attends to itself in the
    first self-attention, which has no residual; attentions hand on what they see unchanged; the
    pixels of a token start alike, so that masks do not dither.
    """
    decoder = sam.mask_decoder
    first, second = decoder.transformer.layers
    final = decoder.transformer.final_attn_token_to_image
    for attention in (first.self_attn, second.self_attn):
        start_attention(attention, gain=1.0)
    for attention in (first.cross_attn_token_to_image, second.cross_attn_token_to_image, final):
        start_attention(attention, gain=LOCAL_ATTENTION_GAIN)
    frequencies = sam.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
    for attention in (first.cross_attn_image_to_token, second.cross_attn_image_to_token):
        start_attention(attention, gain=GRADED_ATTENTION_GAIN)
        look_beside(attention, frequencies)

    start_as_similarity(decoder)
    # The image and the click's place speak first; what kind of prompt it is, later.
    nn.init.zeros_(sam.prompt_encoder.no_mask_embed.weight)
    for embedding in sam.prompt_encoder.point_embeddings:
        embedding.weight.mul_(0.3)
    decoder.mask_tokens.weight.mul_(0.3)


def start_as_similarity(decoder: MaskDecoder) -> None:
    """Start the mask logits as products of mask token and image token, in a few dimensions.

    Every layer holds its rows and their negatives. GELU and ReLU take such a pair apart and the
    next layer puts it together again (f(x) - f(-x) = x), so all is linear at the start.
    """
    first_up, _, _, second_up, _ = decoder.output_upscaling
    width = first_up.in_channels
    narrow = nn.init.orthogonal_(torch.empty(first_up.out_channels // 2, width))
    narrower = nn.init.orthogonal_(torch.empty(second_up.out_channels // 2, len(narrow)))
    for layer, rows in ((first_up, narrow), (second_up, joined(narrower))):
        pairs = torch.cat([rows, -rows])
        layer.weight.copy_(pairs.T[:, :, None, None].expand_as(layer.weight))
        nn.init.zeros_(layer.bias)
    for kernel_head in decoder.output_hypernetworks_mlps:
        into, between, out = kernel_head.layers
        wide = nn.init.orthogonal_(torch.empty(into.out_features // 2, width))
        rows = narrower @ narrow @ wide.T
        into.weight.copy_(torch.cat([wide, -wide]))
        nn.init.eye_(between.weight)
        out.weight.copy_(joined(torch.cat([rows, -rows])))
        for linear in kernel_head.layers:
            nn.init.zeros_(linear.bias)


def joined(rows: Tensor) -> Tensor:
    """Weights on pairs (f(x), f(-x)) that act as ``rows`` on x."""
    return torch.cat([rows, -rows], dim=1)


def start_attention(attention: Attention, gain: float) -> None:
    """Alike attends to alike, and what is seen comes out as it was."""
    nn.init.orthogonal_(attention.q_proj.weight, gain=gain)
    attention.k_proj.weight.copy_(attention.q_proj.weight)
    nn.init.orthogonal_(attention.v_proj.weight)
    attention.out_proj.weight.copy_(attention.v_proj.weight.T)
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj):
        nn.init.zeros_(projection.bias)
