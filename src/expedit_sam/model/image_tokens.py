"""Image tokens in the two-way transformer: what prompt tokens read from and write to.

Prompt tokens are few (about 7), image tokens many (4096), so what can be projected on the prompt's
side is: ``q . (W x)`` is computed as ``(W^T q) . x``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from torch import Tensor, nn

from expedit_sam.products import linear, row_products

if TYPE_CHECKING:
    from expedit_sam.model.two_way_transformer import Attention


class ImageTokens(Protocol):
    """The N image tokens of each of B prompts, with C channels."""

    def of(self, prompts: slice) -> ImageTokens:
        """Those of some prompts."""

    def read(self, attention: Attention, tokens: Tensor) -> Tensor:
        """What BxTxC prompt tokens take from the image: BxTxC."""

    def write(self, attention: Attention, norm: nn.LayerNorm, k: Tensor, v: Tensor) -> ImageTokens:
        """The image tokens once they have taken from BxTxC ``v`` as they fit BxTxC ``k``."""

    def project(
        self, weight: Tensor, bias: Tensor, prompts: slice, where: slice | Tensor
    ) -> Tensor:
        """The BxNxO outputs of a linear layer (OxC, O) for some image tokens of some prompts.

        Arguments:
            weight, bias: the layer's.
            prompts: which of the prompts.
            where: which of the image tokens, in row order.
        """


@dataclass(frozen=True)
class OwnTokens:
    """Image tokens that are written out for each prompt.

    Attributes:
        values: BxNxC, or 1xNxC until prompts have written.
        positions: 1xNxC or BxNxC, added where tokens are compared.
    """

    values: Tensor
    positions: Tensor

    def of(self, prompts: slice) -> OwnTokens:
        values, positions = (x[prompts] if len(x) > 1 else x for x in (self.values, self.positions))
        return OwnTokens(values, positions)

    def read(self, attention: Attention, tokens: Tensor) -> Tensor:
        scores = self._scores(attention, attention.q_proj(tokens), attention.k_proj)
        values = self.values.expand(len(tokens), -1, -1)
        taken = row_products(scores.softmax(dim=-1), values.transpose(1, 2))
        return attention.join(attention.project_values(taken))

    def write(self, attention: Attention, norm: nn.LayerNorm, k: Tensor, v: Tensor) -> OwnTokens:
        scores = self._scores(attention, attention.k_proj(k), attention.q_proj)
        # Softmax over prompt tokens, in the last dimension but one: long rows of image tokens stay
        # contiguous.
        weights = scores.unflatten(1, (attention.num_heads, -1)).softmax(dim=-2).flatten(1, 2)
        added = attention.project_outputs(attention.heads(attention.v_proj(v)))
        # Each head's weights sum to 1, so each can bring its share of the bias.
        added = added + attention.out_proj.bias / attention.num_heads
        changed = row_products(weights.transpose(1, 2), added.transpose(1, 2))
        return OwnTokens(norm(changed.add_(self.values)), self.positions)

    def _scores(self, attention: Attention, tokens: Tensor, projection: nn.Linear) -> Tensor:
        """Bx(H*T)xN products of projected prompt tokens with projected, placed image tokens."""
        tokens = attention.scaled_heads(tokens)
        placed = (self.values + self.positions).expand(len(tokens), -1, -1)
        products = row_products(attention.fold_projection(tokens, projection), placed)
        return products.add_(attention.bias_scores(tokens, projection).flatten(1, 2))

    def project(
        self, weight: Tensor, bias: Tensor, prompts: slice, where: slice | Tensor
    ) -> Tensor:
        return linear(self.of(prompts).values[:, where], weight, bias)


@dataclass(frozen=True)
class CalledTokens(OwnTokens):
    """``OwnTokens`` that call attentions instead of reading their weights.

    For attentions that do more than those written here, such as ones with low-rank adapters.
    """

    def read(self, attention: Attention, tokens: Tensor) -> Tensor:
        values = self.values.expand(len(tokens), -1, -1)
        return attention(q=tokens, k=values + self.positions, v=values)

    def write(self, attention: Attention, norm: nn.LayerNorm, k: Tensor, v: Tensor) -> CalledTokens:
        values = self.values.expand(len(k), -1, -1)
        added = attention(q=values + self.positions, k=k, v=v)
        return replace(self, values=norm(values + added))
