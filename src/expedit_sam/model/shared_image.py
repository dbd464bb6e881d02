"""One image under many prompts, whose image tokens are never written out for each of them.

A layer of the two-way transformer changes image tokens twice: attention adds a few rows, weighted
anew for each token, and layer norm scales tokens and channels. After any number of layers, token n
of a prompt is therefore::

    scale[n] * base[n] + sum over r of weights[r, n] * rows[r] + shift

``base`` is the same for all prompts. Its products with the layers' projections, which were nearly
all the work, are made once an image. What is left for a prompt has 57 rows a layer (8 heads of 7
tokens, and what is added everywhere) in the place of 256 channels. Results are those of
``OwnTokens`` up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from expedit_sam.products import add_row_products, row_products

if TYPE_CHECKING:
    from expedit_sam.model.two_way_transformer import Attention, TwoWayTransformer


@dataclass(frozen=True)
class _Side:
    """The base as an attention sees it.

    Attributes:
        base: HxdxN, projected.
        positions: HxdxN, projected; None where ``base`` holds them.
    """

    base: Tensor
    positions: Tensor | None


@dataclass(frozen=True)
class _Reading:
    """What prompts read of the base: keys, and HxdxN values."""

    keys: _Side
    values: Tensor


@dataclass(frozen=True)
class _Writing:
    """What prompts meet of the base when they write.

    Attributes:
        queries: which of them take what.
        squares: N, |base|^2, here as below without the mean over channels.
        directions: for each layer so far, HxdxN products of the base with what its heads add.
        shifts: for each layer so far, N products of the base with what is added everywhere.
        shift: C, what is added everywhere by this layer.
    """

    queries: _Side
    squares: Tensor
    directions: list[Tensor]
    shifts: list[Tensor]
    shift: Tensor


class SharedImage:
    """What the transformer's layers take of an image, known before any prompt.

    Arguments:
        transformer: its layers.
        image: 1xNxC image tokens.
        positions: 1xNxC.
        outward: OxC, what image tokens are projected with in the end.
    """

    def __init__(
        self, transformer: TwoWayTransformer, image: Tensor, positions: Tensor, outward: Tensor
    ) -> None:
        self.depth, self.heads = transformer.depth, transformer.num_heads
        base, positions = image[0], positions[0]
        self.readings: list[_Reading] = []
        self.writings: list[_Writing] = []
        added: list[tuple[Tensor, Tensor]] = []  # by each layer: HxdxC of heads, C everywhere
        last_shift = torch.zeros_like(base[0])
        layers: Any = transformer.layers
        for layer in layers:
            read, write = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
            self.readings.append(self._reading(read, base, positions))
            queries = self._side(write, write.q_proj, base, positions)
            added.append((write.out_per_head(), last_shift + write.out_proj.bias))
            base = _centred(base)
            added = [(_centred(heads), _centred(shift)) for heads, shift in added]
            self.writings.append(
                _Writing(
                    queries=queries,
                    squares=base.square().sum(dim=-1),
                    directions=[heads @ base.T for heads, _ in added],
                    shifts=[base @ shift for _, shift in added],
                    shift=added[-1][1],
                )
            )
            scale = layer.norm4.weight
            base = base * scale
            added = [(heads * scale, shift * scale) for heads, shift in added]
            last_shift = layer.norm4.bias
        self.readings.append(self._reading(transformer.final_attn_token_to_image, base, positions))
        self.outward = base @ outward.T

    def _reading(self, read: Attention, base: Tensor, positions: Tensor) -> _Reading:
        values = _projected(read, read.v_proj, base)
        return _Reading(self._side(read, read.k_proj, base, positions), values)

    def _side(
        self, attention: Attention, projection: nn.Linear, base: Tensor, positions: Tensor
    ) -> _Side:
        bias = projection.bias.view(attention.num_heads, -1, 1)
        if not self.writings:  # before the first norm both have the same scale: none
            return _Side(_projected(attention, projection, base + positions) + bias, None)
        return _Side(
            _projected(attention, projection, base),
            _projected(attention, projection, positions) + bias,
        )

    def rows(self, prompt_tokens: int) -> int:
        """How many rows a prompt of so many tokens comes to have: the work grows as the square."""
        return self.depth * (self.heads * prompt_tokens + 1)

    def tokens(self) -> SharedTokens:
        """The image tokens before prompts have written."""
        ones, nothing = self.outward.new_ones(1, 1), self.outward.new_zeros(1, 0, 0)
        shift = torch.zeros_like(self.writings[0].shift)
        return SharedTokens(self, 0, ones, nothing, nothing, shift, [])


@dataclass(frozen=True)
class SharedTokens:
    """The image tokens of B prompts on a shared image.

    Attributes:
        image: the image.
        layer: how many layers have written.
        scale: BxN (see above), or 1x1 until prompts have written.
        all_weights: BxSxN, the weights of R rows, and room for those to come.
        rows: BxRxC.
        shift: C.
        values: of each layer so far, BxHxTxd that its heads have added.
    """

    image: SharedImage
    layer: int
    scale: Tensor
    all_weights: Tensor
    rows: Tensor
    shift: Tensor
    values: list[Tensor]

    def of(self, prompts: slice) -> SharedTokens:
        if self.layer == 0:
            return self
        scale, weights, rows = (x[prompts] for x in (self.scale, self.all_weights, self.rows))
        values = [value[prompts] for value in self.values]
        return replace(self, scale=scale, all_weights=weights, rows=rows, values=values)

    def read(self, attention: Attention, tokens: Tensor) -> Tensor:
        reading = self.image.readings[self.layer]
        q = attention.scaled_heads(attention.q_proj(tokens))
        belonging = _softmax(self._scores(attention, attention.k_proj, reading.keys, q), -1)
        scaled = belonging * self._scale if self.layer > 0 else belonging
        taken = _head_products(scaled, reading.values.transpose(1, 2))
        rest = self.shift.expand(len(q), q.shape[1] * q.shape[2], -1)
        if self.layer > 0:
            by_row = row_products(belonging.flatten(1, 2), self.weights)
            rest = rest + torch.bmm(by_row, self.rows)
        return attention.join(taken + attention.of_channels(rest))

    def write(self, attention: Attention, norm: nn.LayerNorm, k: Tensor, v: Tensor) -> SharedTokens:
        writing = self.image.writings[self.layer]
        k = attention.scaled_heads(attention.k_proj(k))
        belonging = _softmax(self._scores(attention, attention.q_proj, writing.queries, k), -2)
        values = [*self.values, attention.heads(attention.v_proj(v))]

        all_weights, weights = self._appended(belonging)
        added = [attention.added_channels(values[-1]), writing.shift.expand(len(k), 1, -1)]
        kept = [_centred(self.rows)] if self.layer > 0 else []
        rows = torch.cat([*kept, _centred(added[0]), added[1]], dim=1)

        # |token|^2 of a sum: of the base, of the rows, and twice the products of both.
        products = self._base_products(writing, values, weights)
        add_row_products(products, torch.bmm(rows, rows.transpose(1, 2)), weights.transpose(1, 2))
        squares = products.mul_(weights).sum(dim=1) + self.scale.square() * writing.squares
        # Rounding may leave a token of nearly nothing below 0.
        inverse = (squares.clamp_min(0) / rows.shape[-1] + norm.eps).rsqrt()
        weights.mul_(inverse[:, None])
        return SharedTokens(
            self.image,
            self.layer + 1,
            self.scale * inverse,
            all_weights,
            rows * norm.weight,
            norm.bias,
            values,
        )

    def project(
        self, weight: Tensor, bias: Tensor, prompts: slice, where: slice | Tensor
    ) -> Tensor:
        """``weight`` is the one that the image was prepared for."""
        some = self.of(prompts)
        shift = bias + weight @ self.shift
        scale, outward = some.scale[:, where, None], self.image.outward[where]
        known = torch.addcmul(shift, scale, outward)
        weights = some.weights[:, :, where].transpose(1, 2)
        add_row_products(known, weights, weight @ some.rows.transpose(1, 2))
        return known

    @property
    def weights(self) -> Tensor:
        """BxRxN."""
        return self.all_weights[:, : self.rows.shape[1]]

    @property
    def _scale(self) -> Tensor:
        """Beside BxHxTxN."""
        return self.scale[:, None, None]

    def _scores(
        self, attention: Attention, projection: nn.Linear, side: _Side, tokens: Tensor
    ) -> Tensor:
        """BxHxTxN products of BxHxTxd tokens with the projected image tokens at their places."""
        scores = _head_products(tokens, side.base)
        if side.positions is None:
            return scores
        inward = attention.in_channels(tokens, projection)
        shift = (inward @ self.shift).view(*tokens.shape[:3], 1)
        placed = _head_products(tokens, side.positions, shift)
        summed = scores.new_empty(scores.shape)
        torch.addcmul(placed, scores, self._scale, out=summed)
        by_row = torch.bmm(inward, self.rows.transpose(1, 2))
        add_row_products(summed.flatten(1, 2), by_row, self.weights.transpose(1, 2))
        return summed

    def _appended(self, belonging: Tensor) -> tuple[Tensor, Tensor]:
        """The weights with those of another layer, which adds something everywhere too.

        Returns:
            the place of all layers' weights, and BxRxN, those there are now.
        """
        batch, heads, tokens, number = belonging.shape
        more = heads * tokens + 1
        place = self.all_weights
        if self.layer == 0:
            place = belonging.new_empty(batch, self.image.depth * more, number)
        first, last = self.layer * more, (self.layer + 1) * more
        place[:, first : last - 1].unflatten(1, (heads, tokens)).copy_(belonging)
        place[:, last - 1] = 1
        return place, place[:, :last]

    def _base_products(self, writing: _Writing, values: list[Tensor], weights: Tensor) -> Tensor:
        """BxRxN: twice the products of the scaled base with all rows, in the rows' order."""
        products = weights.new_empty(weights.shape)
        first = 0
        for value, direction, shift in zip(values, writing.directions, writing.shifts, strict=True):
            heads, tokens = value.shape[1:3]
            last = first + heads * tokens
            place = products[:, first:last].unflatten(1, (heads, tokens))
            torch.mul(_head_products(2 * value, direction), self._scale, out=place)
            products[:, last] = 2 * shift * self.scale
            first = last + 1
        return products


def _projected(attention: Attention, projection: nn.Linear, x: Tensor) -> Tensor:
    """NxC to HxdxN, without the bias."""
    return (projection.weight @ x.T).unflatten(0, (attention.num_heads, -1))


def _centred(x: Tensor) -> Tensor:
    """Without the mean over channels, which layer norm takes away."""
    return x - x.mean(dim=-1, keepdim=True)


def _softmax(x: Tensor, dim: int) -> Tensor:
    """Of BxHxTxN over T or N, in the order that it has in memory: PyTorch's would copy a view."""
    if x.is_contiguous():
        return x.softmax(dim)
    return x.transpose(0, 1).softmax(dim).transpose(0, 1)


def _head_products(x: Tensor, y: Tensor, start: Tensor | None = None) -> Tensor:
    """BxHxTxd and HxdxN to BxHxTxN, on top of BxHxTx1; a view of HxBxTxN."""
    batch, heads, tokens, _ = x.shape
    left = x.transpose(0, 1).reshape(heads, batch * tokens, -1)
    if start is None:
        products = torch.bmm(left, y)
    else:
        above = start.transpose(0, 1).reshape(heads, batch * tokens, 1)
        products = torch.baddbmm(above, left, y)
    return products.unflatten(1, (batch, tokens)).transpose(0, 1)
