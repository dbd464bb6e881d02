"""The image encoder: a vision transformer whose later blocks may run on clusters of tokens."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from expedit_sam.errors import InputError
from expedit_sam.hourglass.contraction import Contraction, contract
from expedit_sam.hourglass.settings import Hourglass, fitting
from expedit_sam.model.block import Block, clustering_window, run_block
from expedit_sam.model.layers import LayerNorm2d
from expedit_sam.model.untouched import is_own, is_untouched
from expedit_sam.modes import is_autocasting


class ImageEncoderViT(nn.Module):
    """SAM's image encoder (Segment Anything, appendix A), with the original's arguments.

    Arguments:
        img_size: side of the square input in pixels.
        patch_size: side of a patch in pixels; divides ``img_size``.
        in_chans: channels of the input.
        embed_dim: channels of a token.
        depth: number of transformer blocks.
        num_heads: attention heads of a block.
        mlp_ratio: width of the feed-forward layer over ``embed_dim``.
        out_chans: channels of the image embedding.
        qkv_bias: whether query, key and value projections have a bias.
        norm_layer, act_layer: classes of the normalisation and the activation.
        use_abs_pos, use_rel_pos: absolute and relative positions.
        rel_pos_zero_init: accepted for compatibility; the tables always start at zero.
        window_size: side of the attention windows in tokens; 0 for none.
        global_attn_indexes: blocks that attend over the whole grid.
        hourglass: where and how tokens are clustered; None runs the exact network.
    """

    _hourglass: Hourglass | None = None
    steps: Steps | None = None  # how ``encode`` computes, where not as usual

    def __init__(
        self,
        img_size: int = 1024,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        out_chans: int = 256,
        qkv_bias: bool = True,
        norm_layer: Any = nn.LayerNorm,
        act_layer: type[nn.Module] = nn.GELU,
        use_abs_pos: bool = True,
        use_rel_pos: bool = False,
        rel_pos_zero_init: bool = True,
        window_size: int = 0,
        global_attn_indexes: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        if img_size % patch_size:
            raise ValueError(f"img_size {img_size} is no multiple of patch_size {patch_size}")
        self.img_size = img_size
        side = img_size // patch_size
        self.patch_embed = PatchEmbed(
            (patch_size, patch_size),
            (patch_size, patch_size),
            in_chans=in_chans,
            embed_dim=embed_dim,
        )
        self.pos_embed = (
            nn.Parameter(torch.zeros(1, side, side, embed_dim)) if use_abs_pos else None
        )
        self.blocks = nn.ModuleList(
            Block(
                dim=embed_dim,
                num_heads=num_heads,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                norm_layer=norm_layer,
                act_layer=act_layer,
                use_rel_pos=use_rel_pos,
                rel_pos_zero_init=rel_pos_zero_init,
                window_size=0 if i in global_attn_indexes else window_size,
                input_size=(side, side),
            )
            for i in range(depth)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(embed_dim, out_chans, kernel_size=1, bias=False),
            LayerNorm2d(out_chans),
            nn.Conv2d(out_chans, out_chans, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(out_chans),
        )
        self.hourglass = None

    @property
    def hourglass(self) -> Hourglass | None:
        """Where and how tokens are clustered; None runs the exact network.

        May be set at any time, to a preset's name too.

        Raises:
            InputError: when it is set: no preset has this name, or it does not fit the network.
        """
        return self._hourglass

    @hourglass.setter
    def hourglass(self, setting: Hourglass | str | None) -> None:
        self._hourglass = fitting(setting, len(self.blocks), clustering_window(self.blocks))

    def forward(self, x: Tensor) -> Tensor:
        """Encode Bx3ximg_sizeximg_size normalised pixels to a BxCxhxw image embedding.

        Works in the precision of its weights; the embedding has that of the pixels.

        Raises:
            InputError: pixels are not normalised or of no image, or the hourglass begins before a
                block whose forward pass is not ours.
        """
        if not x.is_floating_point():
            raise InputError(f"pixels are {x.dtype}: normalise them first, as Sam.preprocess does")
        if 0 in x.shape:
            raise InputError(f"pixels have shape {tuple(x.shape)}: give one image or more")
        if self.hourglass is not None:
            self.require_own_blocks(self.hourglass.block(len(self.blocks)))
        types = (weight.dtype for weight in self.parameters() if weight.is_floating_point())
        pixels = x.to(next(types, x.dtype))
        return encode(self, pixels, self.hourglass, self.steps).to(x.dtype)

    def require_own_blocks(self, first: int) -> None:
        """Raise ``InputError`` if block ``first`` or a later one has somebody's forward pass."""
        for number, block in enumerate(self.blocks):
            own = isinstance(block, Block) and is_own(block, "forward")
            if number >= first and not (own and is_own(block.attn, "forward")):
                raise InputError(
                    f"block {number} has a forward pass of its own, which takes no clusters and is "
                    "not compiled: set the hourglass to None, or its location behind the block"
                )


class PatchEmbed(nn.Module):
    """Cut an image into patches and project each to a token: BxCxHxW to Bxhxwxembed_dim."""

    def __init__(
        self,
        kernel_size: tuple[int, int] = (16, 16),
        stride: tuple[int, int] = (16, 16),
        padding: tuple[int, int] = (0, 0),
        in_chans: int = 3,
        embed_dim: int = 768,
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size, stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).permute(0, 2, 3, 1)


def encode(
    encoder: Any, pixels: Tensor, hourglass: Hourglass | None, steps: Steps | None = None
) -> Tensor:
    """Run any image encoder with SAM's attribute names, exactly or through the hourglass.

    Source: arXiv 2210.01035, section 3.2: blocks up to a location on all tokens, the rest on
    clusters of them, and every position rebuilt before the neck.

    Arguments:
        encoder: our ``ImageEncoderViT`` or the original package's.
        pixels: Bx3xHxW, normalised.
        hourglass: None runs every block on every token.
        steps: what computes blocks and clusters; None for the usual ``Steps``.

    Returns:
        BxCxhxw image embedding.
    """
    steps = steps or Steps()
    depth = len(encoder.blocks)
    location = depth if hourglass is None else hourglass.block(depth)
    tokens = first_tokens(encoder, pixels, location, steps.on_tokens)
    if hourglass is not None and location < depth:
        window = clustering_window(encoder.blocks)
        with _without_autocast(tokens.device.type):
            contraction = steps.contract(tokens, hourglass, window)
        clusters = contraction.clusters
        smaller_window = hourglass.cluster_side(window)
        for block in encoder.blocks[location:]:
            side = smaller_window if block.window_size > 0 else 0
            clusters = steps.on_clusters(block, clusters, side, contraction.traits)
        projection, rest = _split_neck(encoder.neck)
        with _without_autocast(tokens.device.type):
            tokens = steps.expand(contraction, clusters, projection)
        return rest(tokens.permute(0, 3, 1, 2))
    return encoder.neck(tokens.permute(0, 3, 1, 2))


def _without_autocast(device_type: str) -> AbstractContextManager[object]:
    """No autocast inside: distances to clusters need the tokens' own precision."""
    if is_autocasting(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def _split_neck(neck: Any) -> tuple[Tensor | None, Any]:
    """A neck as its first projection, OxC, and the rest; None and the neck if it has none."""
    first: Any = neck[0] if isinstance(neck, nn.Sequential) and len(neck) > 0 else None
    is_projection = (
        isinstance(first, nn.Conv2d)
        and is_untouched(first)
        and (first.kernel_size, first.stride, first.padding) == ((1, 1), (1, 1), (0, 0))
        and (first.groups, first.bias) == (1, None)
    )
    return (first.weight.flatten(1), neck[1:]) if is_projection else (None, neck)


def first_tokens(
    encoder: Any, pixels: Tensor, number: int, run: Callable[..., Tensor] | None = None
) -> Tensor:
    """Tokens after the first ``number`` blocks.

    Arguments:
        encoder, pixels: see ``encode``.
        run: see ``Steps.on_tokens``.

    Returns:
        BxhxwxC, one token a patch.
    """
    # A convolution's channels lie far apart, where every later layer would have to gather them.
    tokens = encoder.patch_embed(pixels).contiguous()
    if encoder.pos_embed is not None:
        tokens = tokens + encoder.pos_embed
    for block in encoder.blocks[:number]:
        tokens = block(tokens) if run is None else run(block, tokens, block.window_size)
    return tokens


@dataclass(frozen=True)
class Steps:
    """The functions that ``encode`` computes with.

    Attributes:
        on_tokens: ``run_block`` or another of its kind, for all tokens; None calls the block.
        on_clusters: the same for clusters.
        contract: tokens to clusters, as ``contract`` does.
        expand: clusters back to tokens, as ``Contraction.expand`` does.
    """

    on_tokens: Callable[..., Tensor] | None = None
    on_clusters: Callable[..., Tensor] = run_block
    contract: Callable[..., Contraction] = contract
    expand: Callable[..., Tensor] = Contraction.expand
