"""The mask decoder's transformer: prompt tokens and image tokens attend to each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

from expedit_sam.model.image_tokens import CalledTokens, ImageTokens
from expedit_sam.model.layers import MLPBlock

Tokens = TypeVar("Tokens", bound=ImageTokens)


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
        keys, positions = (x.flatten(2).transpose(1, 2) for x in (image_embedding, image_pe))
        queries = point_embedding
        for layer in self.layers:
            queries, keys = layer(
                queries=queries, keys=keys, query_pe=point_embedding, key_pe=positions
            )
        attended = CalledTokens(keys, positions).read(
            self.final_attn_token_to_image, queries + point_embedding
        )
        return self.norm_final_attn(queries + attended), keys

    @property
    def image_attentions(self) -> list[Attention]:
        """The attentions between prompt tokens and image tokens."""
        layers: Any = self.layers
        of_layers = (
            attention
            for layer in layers
            for attention in (layer.cross_attn_token_to_image, layer.cross_attn_image_to_token)
        )
        return [*of_layers, self.final_attn_token_to_image]

    def attend(
        self, image: Tokens, point_embedding: Tensor, wanted: Sequence[int] | None = None
    ) -> tuple[Tensor, Tokens]:
        """``forward`` on image tokens of any kind, for layers that are as they were built.

        Arguments:
            image: the image tokens of B prompts.
            point_embedding: BxTxC prompt tokens.
            wanted: which W of the T prompt tokens are returned; None for all.

        Returns:
            BxWxC prompt tokens and the image tokens.
        """
        queries = point_embedding
        layers: Any = self.layers
        for layer in layers:
            queries, image = layer.meet(queries, image, point_embedding)
        if wanted is not None:
            queries, point_embedding = queries[:, wanted], point_embedding[:, wanted]
        attended = image.read(self.final_attn_token_to_image, queries + point_embedding)
        return self.norm_final_attn(queries + attended), image


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
        """Let prompts and image attend to each other once.

        Arguments:
            queries, query_pe: BxTxC prompt tokens and their positions.
            keys, key_pe: Bx(h*w)xC (or 1x(h*w)xC) image tokens and their positions.

        Returns:
            BxTxC prompt tokens and Bx(h*w)xC image tokens.
        """
        queries, image = self.meet(queries, CalledTokens(keys, key_pe), query_pe)
        return queries, image.values

    def meet(self, queries: Tensor, image: Tokens, query_pe: Tensor) -> tuple[Tensor, Tokens]:
        """``forward`` on image tokens of any kind."""
        if self.skip_first_layer_pe:
            queries = self.self_attn(queries, queries, queries)
        else:
            q = queries + query_pe
            queries = queries + self.self_attn(q, q, queries)
        queries = self.norm1(queries)

        attended = image.read(self.cross_attn_token_to_image, queries + query_pe)
        queries = self.norm2(queries + attended)
        queries = self.norm3(queries + self.mlp(queries))

        write = self.cross_attn_image_to_token
        written: Any = image.write(write, self.norm4, k=queries + query_pe, v=queries)
        return queries, written


class Attention(nn.Module):
    """Multi-head attention, optionally on fewer channels inside.

    Arguments:
        embedding_dim: C, channels of the tokens.
        num_heads: H; divides the channels inside.
        downsample_rate: ``embedding_dim`` over the channels inside.

    Raises:
        ValueError: the heads do not divide the channels.
    """

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
        q, k, v = (self.heads(x) for x in (self.q_proj(q), self.k_proj(k), self.v_proj(v)))
        return self.join(F.scaled_dot_product_attention(q, k, v))

    # The parts of it that ``ImageTokens`` reads and writes with; H heads of d channels each.

    def heads(self, x: Tensor) -> Tensor:
        """BxNx(H*d) to BxHxNxd."""
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)

    def scaled_heads(self, x: Tensor) -> Tensor:
        """``heads`` over the root of d, for the queries or the keys of an attention."""
        return self.heads(x) / math.sqrt(self.internal_dim // self.num_heads)

    def join(self, x: Tensor) -> Tensor:
        """BxHxTxd of the heads to the BxTxC output."""
        return self.out_proj(x.transpose(1, 2).flatten(2))

    def fold_projection(self, x: Tensor, projection: nn.Linear) -> Tensor:
        """BxHxTxd to Bx(H*T)xC: its products with tokens are those of ``x`` with projected ones.

        The projection's bias is left out (see ``bias_scores``).
        """
        return (x @ self._per_head(projection)).flatten(1, 2)

    def bias_scores(self, x: Tensor, projection: nn.Linear) -> Tensor:
        """BxHxTx1: what the bias of a projection adds to the products of BxHxTxd with it."""
        return x @ projection.bias.view(self.num_heads, -1, 1)

    def project_values(self, x: Tensor) -> Tensor:
        """Bx(H*T)xC to BxHxTxd: means of tokens, one for each head, to means of its values."""
        values = x.unflatten(1, (self.num_heads, -1)) @ self._per_head(self.v_proj).transpose(1, 2)
        return values + self.heads(self.v_proj.bias.view(1, 1, -1))

    def output_weights(self) -> Tensor:
        """HxdxC, the output projection of each head."""
        return self.out_proj.weight.T.unflatten(0, (self.num_heads, -1))

    def project_outputs(self, x: Tensor) -> Tensor:
        """BxHxTxd to Bx(H*T)xC: what each head adds to the output, without the bias."""
        return (x @ self.output_weights()).flatten(1, 2)

    def _per_head(self, projection: nn.Linear) -> Tensor:
        """HxdxC, a projection's weight of each head."""
        return projection.weight.view(self.num_heads, -1, self.embedding_dim)
