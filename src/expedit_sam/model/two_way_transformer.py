"""The mask decoder's transformer: prompt tokens and image tokens attend to each other.

Prompt tokens are few (about 7), image tokens many (4096), so nothing is ever projected on the
image's side that can be projected on the prompt's: ``q . (W x)`` is computed as ``(W^T q) . x``.
Where many prompts share one image (the first layer), it is the image that is projected, once, and
so are positions, which all prompts share in every layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expedit_sam.model.layers import MLPBlock


class TwoWayTransformer(nn.Module):
    """Attention both ways between prompt and image (Segment Anything, appendix A).

    Arguments:
        depth: number of layers.
        embedding_dim: channels of every token.
        num_heads: attention heads; divides ``embedding_dim``.
        mlp_dim: width of the feed-forward layers.
        activation: their activation.
        attention_downsample_rate: how much narrower the attention between prompt and image is.
    """

    def __init__(
        self,
        depth: int,
        embedding_dim: int,
        num_heads: int,
        mlp_dim: int,
        activation: type[nn.Module] = nn.ReLU,
        attention_downsample_rate: int = 2,
    ) -> None:
        super().__init__()
        self.depth = depth
        self.embedding_dim = embedding_dim
        self.num_heads = num_heads
        self.mlp_dim = mlp_dim
        self.layers = nn.ModuleList(
            TwoWayAttentionBlock(
                embedding_dim=embedding_dim,
                num_heads=num_heads,
                mlp_dim=mlp_dim,
                activation=activation,
                attention_downsample_rate=attention_downsample_rate,
                skip_first_layer_pe=(i == 0),
            )
            for i in range(depth)
        )
        self.final_attn_token_to_image = Attention(
            embedding_dim, num_heads, attention_downsample_rate
        )
        self.norm_final_attn = nn.LayerNorm(embedding_dim)

    def forward(
        self, image_embedding: Tensor, image_pe: Tensor, point_embedding: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Let prompts and image attend to each other.

        Arguments:
            image_embedding: BxCxhxw, or 1xCxhxw for one image under all prompts.
            image_pe: 1xCxhxw (or BxCxhxw) positions of the image tokens.
            point_embedding: BxTxC prompt tokens.

        Returns:
            BxTxC prompt tokens and Bx(h*w)xC image tokens.
        """
        groups = self.groups(image_embedding, image_pe, point_embedding, len(point_embedding))
        queries, keys = zip(*groups, strict=True)
        return torch.cat(queries), torch.cat(keys)

    def groups(
        self, image_embedding: Tensor, image_pe: Tensor, point_embedding: Tensor, size: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """What ``forward`` returns, of at most ``size`` prompts at a time."""
        batch = len(point_embedding)
        if len(image_pe) > 1:
            size = batch  # positions of their own are not cut
        image, positions = (
            x.flatten(2).transpose(1, 2).contiguous() for x in (image_embedding, image_pe)
        )
        layers: Any = self.layers
        common = image if len(image) == len(image_pe) == 1 < batch else None
        projected = [
            layer.project(positions, common if i == 0 else None) for i, layer in enumerate(layers)
        ]
        last = self.final_attn_token_to_image
        last_positions = last.k_proj(positions)
        for start in range(0, max(batch, 1), max(size, 1)):
            embedding = point_embedding[start : start + size]
            queries = embedding
            keys = image if common is not None else image[start : start + size]
            for layer, known in zip(layers, projected, strict=True):
                queries, keys = layer.meet(queries, keys, embedding, known)
            attended = last.token_to_image(queries + embedding, keys, last_positions)
            yield self.norm_final_attn(queries + attended), keys


class Projected(NamedTuple):
    """What a layer's attention takes of the image that is the same for all prompts.

    Attributes:
        keys, queries: 1xNxD (or BxNxD), what prompt tokens look at and what looks at them: of
            the image with its positions where prompts share it, else of the positions alone.
        values: 1xNxD of the image where prompts share it, else None.
    """

    keys: Tensor
    queries: Tensor
    values: Tensor | None


class TwoWayAttentionBlock(nn.Module):
    """Prompt to itself, prompt to image, feed-forward on the prompt, image to prompt."""

    def __init__(
        self,
        embedding_dim: int,
        num_heads: int,
        mlp_dim: int = 2048,
        activation: type[nn.Module] = nn.ReLU,
        attention_downsample_rate: int = 2,
        skip_first_layer_pe: bool = False,
    ) -> None:
        super().__init__()
        self.self_attn = Attention(embedding_dim, num_heads)
        self.norm1 = nn.LayerNorm(embedding_dim)
        self.cross_attn_token_to_image = Attention(
            embedding_dim, num_heads, attention_downsample_rate
        )
        self.norm2 = nn.LayerNorm(embedding_dim)
        self.mlp = MLPBlock(embedding_dim, mlp_dim, activation)
        self.norm3 = nn.LayerNorm(embedding_dim)
        self.norm4 = nn.LayerNorm(embedding_dim)
        self.cross_attn_image_to_token = Attention(
            embedding_dim, num_heads, attention_downsample_rate
        )
        self.skip_first_layer_pe = skip_first_layer_pe

    def forward(
        self, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor
    ) -> tuple[Tensor, Tensor]:
        """BxTxC prompt tokens and Bx(h*w)xC (or 1x(h*w)xC) image tokens, and their positions."""
        return self.meet(queries, keys, query_pe, self.project(key_pe, None))

    def project(self, positions: Tensor, shared_image: Tensor | None) -> Projected:
        """Arguments are 1xNxC; ``shared_image`` is None where each prompt has its own."""
        read, write = self.cross_attn_token_to_image, self.cross_attn_image_to_token
        if shared_image is None:
            return Projected(read.k_proj(positions), write.q_proj(positions), None)
        placed = shared_image + positions
        return Projected(read.k_proj(placed), write.q_proj(placed), read.v_proj(shared_image))

    def meet(
        self, queries: Tensor, keys: Tensor, query_pe: Tensor, known: Projected
    ) -> tuple[Tensor, Tensor]:
        """``forward``, with what is known of the image before the prompts."""
        if self.skip_first_layer_pe:
            queries = self.self_attn(queries, queries, queries)
        else:
            q = queries + query_pe
            queries = queries + self.self_attn(q, q, queries)
        queries = self.norm1(queries)

        read, write = self.cross_attn_token_to_image, self.cross_attn_image_to_token
        tokens = queries + query_pe
        if known.values is None:
            attended = read.token_to_image(tokens, keys, known.keys)
        else:
            attended = read.token_to_shared_image(tokens, known.keys, known.values)
        queries = self.norm2(queries + attended)
        queries = self.norm3(queries + self.mlp(queries))

        own_image = keys if known.values is None else None
        added = write.image_to_token(own_image, known.queries, k=queries + query_pe, v=queries)
        return queries, self.norm4(added.add_(keys))


class Attention(nn.Module):
    """Multi-head attention with an optional narrower inside; either side may be the image."""

    def __init__(self, embedding_dim: int, num_heads: int, downsample_rate: int = 1) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.internal_dim = embedding_dim // downsample_rate
        self.num_heads = num_heads
        if self.internal_dim % num_heads:
            raise ValueError(f"num_heads {num_heads} does not divide {self.internal_dim} channels")
        self.q_proj = nn.Linear(embedding_dim, self.internal_dim)
        self.k_proj = nn.Linear(embedding_dim, self.internal_dim)
        self.v_proj = nn.Linear(embedding_dim, self.internal_dim)
        self.out_proj = nn.Linear(self.internal_dim, embedding_dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Plain attention of BxTxC queries to BxNxC keys and values."""
        return self._attend(self.q_proj(q), self.k_proj(k), self.v_proj(v))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = F.scaled_dot_product_attention(self._heads(q), self._heads(k), self._heads(v))
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def token_to_shared_image(self, tokens: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Plain attention of BxTxC tokens to an image that they share, projected: 1xNxD."""
        together = tokens.flatten(0, 1)[None]
        return self._attend(self.q_proj(together), keys, values).view(tokens.shape)

    def token_to_image(self, tokens: Tensor, image: Tensor, positions: Tensor) -> Tensor:
        """What ``forward(tokens, image + positions, image)`` gives, little done to the image.

        Arguments:
            tokens: BxTxC.
            image: BxNxC.
            positions: 1xNxD, projected as keys.
        """
        q = self._heads(self.q_proj(tokens)) / math.sqrt(self.internal_dim // self.num_heads)
        belonging = self._scores(q, positions, self.k_proj, image).softmax(dim=-1)
        mixed = torch.bmm(belonging, image).unflatten(1, (self.num_heads, -1))
        weight = self.v_proj.weight.view(self.num_heads, -1, self.embedding_dim)
        out = mixed @ weight.transpose(1, 2) + self.v_proj.bias.view(self.num_heads, 1, -1)
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def image_to_token(self, image: Tensor | None, queries: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What ``forward(image + positions, k, v)`` gives, little done to the image.

        Arguments:
            image: BxNxC, or None where the prompts share one.
            queries: 1xNxD, projected: the positions, or the shared image with its positions.
            k, v: BxTxC.

        Returns:
            BxNxC.
        """
        keys = self._heads(self.k_proj(k)) / math.sqrt(self.internal_dim // self.num_heads)
        scores = self._scores(keys, queries, self.q_proj, image)
        # Over tokens, the last dimension but one: long rows of image tokens stay contiguous.
        belonging = scores.unflatten(1, (self.num_heads, -1)).softmax(dim=-2).flatten(1, 2)
        weight = self.out_proj.weight.view(self.embedding_dim, self.num_heads, -1)
        values = torch.einsum("bhtd,chd->bhtc", self._heads(self.v_proj(v)), weight)
        # Each head's weights sum to 1, so each can bring its share of the bias.
        values = (values + self.out_proj.bias / self.num_heads).flatten(1, 2)
        return torch.bmm(belonging.transpose(1, 2), values)

    def _heads(self, x: Tensor) -> Tensor:
        """BxNxC to BxheadsxNx(C/heads)."""
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)

    def _scores(
        self, tokens: Tensor, known: Tensor, projection: nn.Linear, image: Tensor | None
    ) -> Tensor:
        """Bx(heads*T)xN products of BxheadsxTxd tokens with the image's side.

        That is 1xNxD (or BxNxD) ``known``, and where each prompt has its own, BxNxC ``image``
        projected (without the bias, which ``known`` holds).
        """
        known = self._heads(known)
        if len(known) == 1:
            scores = torch.einsum("bhtd,hnd->bhtn", tokens, known[0]).flatten(1, 2)
        else:
            scores = (tokens @ known.transpose(2, 3)).flatten(1, 2)
        if image is None:
            return scores
        weight = projection.weight.view(self.num_heads, -1, self.embedding_dim)
        return torch.baddbmm(scores, (tokens @ weight).flatten(1, 2), image.transpose(1, 2))
