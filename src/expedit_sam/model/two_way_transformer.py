"""The mask decoder's transformer: prompt tokens and image tokens attend to each other.

Prompt tokens are few (about 7), image tokens many (4096), so nothing is ever projected on the
image's side that can be projected on the prompt's: ``q . (W x)`` is computed as ``(W^T q) . x``.
Where many prompts share one image (the first layer), it is the image that is projected, once.
"""

from __future__ import annotations

import math

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
        keys = image_embedding.flatten(2).transpose(1, 2)
        key_pe = image_pe.flatten(2).transpose(1, 2)
        queries = point_embedding
        for layer in self.layers:
            queries, keys = layer(queries, keys, point_embedding, key_pe)
        attended = self.final_attn_token_to_image.token_to_image(
            queries + point_embedding, keys, keys + key_pe
        )
        return self.norm_final_attn(queries + attended), keys


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
        if self.skip_first_layer_pe:
            queries = self.self_attn(queries, queries, queries)
        else:
            q = queries + query_pe
            queries = queries + self.self_attn(q, q, queries)
        queries = self.norm1(queries)

        placed = keys + key_pe
        attended = self.cross_attn_token_to_image.token_to_image(queries + query_pe, keys, placed)
        queries = self.norm2(queries + attended)
        queries = self.norm3(queries + self.mlp(queries))

        keys = self.cross_attn_image_to_token.add_token_to_image(
            keys, placed, k=queries + query_pe, v=queries
        )
        return queries, self.norm4(keys)


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
        q, k, v = (
            self._heads(project(x))
            for project, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        out = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def token_to_image(self, tokens: Tensor, image: Tensor, placed: Tensor) -> Tensor:
        """What ``forward(tokens, placed, image)`` gives, with few image-side operations.

        Arguments:
            tokens: BxTxC.
            image: BxNxC, or 1xNxC shared by all prompts.
            placed: the image with its positions added.
        """
        batch, length, _ = tokens.shape
        if image.shape[0] == 1 and batch > 1:
            together = self.forward(tokens.reshape(1, batch * length, -1), placed, image)
            return together.view(batch, length, -1)
        q = self._heads(self.q_proj(tokens)) / math.sqrt(self.internal_dim // self.num_heads)
        belonging = self._scores(q, self.k_proj, placed).softmax(dim=-1)
        mixed = torch.bmm(belonging, image).view(batch, self.num_heads, length, -1)
        weight = self.v_proj.weight.view(self.num_heads, -1, self.embedding_dim)
        out = mixed @ weight.transpose(1, 2) + self.v_proj.bias.view(self.num_heads, 1, -1)
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def add_token_to_image(self, image: Tensor, placed: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What ``image + forward(placed, k, v)`` gives, with few image-side operations.

        Arguments:
            image: BxNxC, or 1xNxC shared by all prompts.
            placed: the image with its positions added.
            k, v: BxTxC.

        Returns:
            BxNxC.
        """
        keys = self._heads(self.k_proj(k)) / math.sqrt(self.internal_dim // self.num_heads)
        if image.shape[0] == 1 and k.shape[0] > 1:
            q = self._heads(self.q_proj(placed))[0]
            scores = torch.einsum("bhtd,hnd->bhtn", keys, q).flatten(1, 2)
        else:
            scores = self._scores(keys, self.q_proj, placed)
        # Over tokens, the last dimension but one: long rows of image tokens stay contiguous.
        belonging = scores.unflatten(1, (self.num_heads, -1)).softmax(dim=-2).flatten(1, 2)
        weight = self.out_proj.weight.view(self.embedding_dim, self.num_heads, -1)
        values = torch.einsum("bhtd,chd->bhtc", self._heads(self.v_proj(v)), weight)
        # Each head's weights sum to 1, so each can bring its share of the bias.
        values = (values + self.out_proj.bias / self.num_heads).flatten(1, 2)
        return torch.baddbmm(image, belonging.transpose(1, 2), values)

    def _heads(self, x: Tensor) -> Tensor:
        """BxNxC to BxheadsxNx(C/heads)."""
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)

    def _scores(self, tokens: Tensor, projection: nn.Linear, placed: Tensor) -> Tensor:
        """Bx(heads*T)xN products of BxheadsxTxd tokens with the projected image.

        The projection's bias takes part too: it adds the same to all scores of a token over the
        image, but not of an image token over the tokens.
        """
        weight = projection.weight.view(self.num_heads, -1, self.embedding_dim)
        bias = projection.bias.view(self.num_heads, -1, 1)
        return torch.baddbmm(
            (tokens @ bias).flatten(1, 2),
            (tokens @ weight).flatten(1, 2),
            placed.transpose(1, 2),
        )
