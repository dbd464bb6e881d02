"""One image under many prompts, whose image tokens are never written out for each of them.

A layer of the two-way transformer changes image tokens twice: attention adds a weighted sum of a
few rows to each, and layer norm scales tokens and channels. After any number of layers, token n
of a prompt is therefore::

    scale[n] * base[n] + sum over r of weights[r, n] * rows[r] + shift

``base`` is the same for all prompts, and so are its products with the layers' projections, nearly
all the work: they are made once an image. What is left for each prompt works on 57 rows a layer (8
heads of 7 prompt tokens, and one row that is added to all tokens alike) instead of 256 channels.
Results are those of ``OwnTokens`` up to rounding.

B prompts of T tokens meet N image tokens of C channels in attention of H heads with d channels.
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
class _PlacedBase:
    """The base and its positions, projected to queries or keys of an attention.

    Attributes:
        tokens: HxdxN.
        positions: HxdxN; None where ``tokens`` include them.
    """

    tokens: Tensor
    positions: Tensor | None


@dataclass(frozen=True)
class _Reading:
    """What a layer's prompt tokens read of the base: its keys and HxdxN values."""

    keys: _PlacedBase
    values: Tensor


@dataclass(frozen=True)
class _Writing:
    """What a layer needs of the base when prompt tokens write to image tokens.

    Attributes:
        queries: the queries of the base.
        squares: N, |base|^2, here and below less the mean over channels, as layer norm has it.
        directions: for each layer so far, HxdxN products of the base with the output projection of
            its heads.
        shifts: for each layer so far, N products of the base with the row added to all tokens.
        shift: C, the row that this layer adds to all tokens.
    """

    queries: _PlacedBase
    squares: Tensor
    directions: list[Tensor]
    shifts: list[Tensor]
    shift: Tensor


class SharedImage:
    """What the transformer's layers take of an image, known before any prompt.

    Arguments:
        transformer: the layers.
        image: 1xNxC image tokens.
        positions: 1xNxC positions of the image tokens.
        outward: OxC, what the last image tokens are projected with (see ``SharedTokens.project``).
    """

    def __init__(
        self, transformer: TwoWayTransformer, image: Tensor, positions: Tensor, outward: Tensor
    ) -> None:
        self.depth, self.heads = transformer.depth, transformer.num_heads
        base, positions = image[0], positions[0]
        self.readings: list[_Reading] = []
        self.writings: list[_Writing] = []
        # What each layer so far has added: HxdxC by its heads, C to all tokens.
        added: list[tuple[Tensor, Tensor]] = []
        last_shift = torch.zeros_like(base[0])
        layers: Any = transformer.layers
        for layer in layers:
            read, write = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
            self.readings.append(self._reading(read, base, positions))
            queries = self._placed_base(write, write.q_proj, base, positions)
            added.append((write.output_weights(), last_shift + write.out_proj.bias))
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
        values = _project(read, read.v_proj, base)
        return _Reading(self._placed_base(read, read.k_proj, base, positions), values)

    def _placed_base(
        self, attention: Attention, projection: nn.Linear, base: Tensor, positions: Tensor
    ) -> _PlacedBase:
        bias = projection.bias.view(attention.num_heads, -1, 1)
        if not self.writings:  # before the first norm both have the same scale: none
            return _PlacedBase(_project(attention, projection, base + positions) + bias, None)
        return _PlacedBase(
            _project(attention, projection, base),
            _project(attention, projection, positions) + bias,
        )

    def rows(self, prompt_tokens: int) -> int:
        """Rows of a prompt of so many tokens after all layers; the work grows as their square."""
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
        scale: BxN (see the module), or 1x1 until prompts have written.
        all_weights: BxSxN, the weights of the R rows so far, and room for those of later layers.
        rows: BxRxC (see the module).
        shift: C (see the module).
        values: for each layer so far, the BxHxTxd values that its heads have written.
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
        scores = self._scores(attention, attention.k_proj, reading.keys, q)
        attention_weights = _softmax(scores, -1)
        scaled = attention_weights * self._scale if self.layer > 0 else attention_weights
        taken = _head_products(scaled, reading.values.transpose(1, 2))
        rest = self.shift.expand(len(q), q.shape[1] * q.shape[2], -1)
        if self.layer > 0:
            by_row = row_products(attention_weights.flatten(1, 2), self.weights)
            rest = rest + torch.bmm(by_row, self.rows)
        return attention.join(taken + attention.project_values(rest))

    def write(self, attention: Attention, norm: nn.LayerNorm, k: Tensor, v: Tensor) -> SharedTokens:
        writing = self.image.writings[self.layer]
        k = attention.scaled_heads(attention.k_proj(k))
        scores = self._scores(attention, attention.q_proj, writing.queries, k)
        attention_weights = _softmax(scores, -2)
        values = [*self.values, attention.heads(attention.v_proj(v))]

        all_weights, weights = self._appended(attention_weights)
        added = [attention.project_outputs(values[-1]), writing.shift.expand(len(k), 1, -1)]
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
        """As in ``ImageTokens``; ``weight`` has to be the ``outward`` of the shared image."""
        some = self.of(prompts)
        shift = bias + weight @ self.shift
        scale, outward = some.scale[:, where, None], self.image.outward[where]
        known = torch.addcmul(shift, scale, outward)
        weights = some.weights[:, :, where].transpose(1, 2)
        add_row_products(known, weights, weight @ some.rows.transpose(1, 2))
        return known

    @property
    def weights(self) -> Tensor:
        """BxRxN, the weights of the rows so far."""
        return self.all_weights[:, : self.rows.shape[1]]

    @property
    def _scale(self) -> Tensor:
        """The scale as Bx1x1xN, to broadcast with BxHxTxN."""
        return self.scale[:, None, None]

    def _scores(
        self, attention: Attention, projection: nn.Linear, base: _PlacedBase, tokens: Tensor
    ) -> Tensor:
        """BxHxTxN products of BxHxTxd tokens with the projected image tokens at their places."""
        scores = _head_products(tokens, base.tokens)
        if base.positions is None:
            return scores
        inward = attention.fold_projection(tokens, projection)
        shift = (inward @ self.shift).view(*tokens.shape[:3], 1)
        placed = _head_products(tokens, base.positions, shift)
        summed = scores.new_empty(scores.shape)
        torch.addcmul(placed, scores, self._scale, out=summed)
        by_row = torch.bmm(inward, self.rows.transpose(1, 2))
        add_row_products(summed.flatten(1, 2), by_row, self.weights.transpose(1, 2))
        return summed

    def _appended(self, attention_weights: Tensor) -> tuple[Tensor, Tensor]:
        """The weights with those of another layer: of its heads' rows, and 1 for its shift.

        Returns:
            BxSxN with room for all layers, and the BxRxN of the layers so far, a view of it.
        """
        batch, heads, tokens, number = attention_weights.shape
        more = heads * tokens + 1
        place = self.all_weights
        if self.layer == 0:
            place = attention_weights.new_empty(batch, self.image.depth * more, number)
        first, last = self.layer * more, (self.layer + 1) * more
        place[:, first : last - 1].unflatten(1, (heads, tokens)).copy_(attention_weights)
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


def _project(attention: Attention, projection: nn.Linear, x: Tensor) -> Tensor:
    """NxC tokens to HxdxN, without the bias."""
    return (projection.weight @ x.T).unflatten(0, (attention.num_heads, -1))


def _centred(x: Tensor) -> Tensor:
    """``x`` less its mean over channels, as layer norm has it."""
    return x - x.mean(dim=-1, keepdim=True)


def _softmax(x: Tensor, dim: int) -> Tensor:
    """Softmax of BxHxTxN over T or N, in the order of its memory: PyTorch's would copy a view."""
    if x.is_contiguous():
        return x.softmax(dim)
    return x.transpose(0, 1).softmax(dim).transpose(0, 1)


def _head_products(x: Tensor, y: Tensor, start: Tensor | None = None) -> Tensor:
    """Products of BxHxTxd and HxdxN, plus BxHxTx1 ``start``: BxHxTxN, a view of HxBxTxN."""
    batch, heads, tokens, _ = x.shape
    left = x.transpose(0, 1).reshape(heads, batch * tokens, -1)
    if start is None:
        products = torch.bmm(left, y)
    else:
        above = start.transpose(0, 1).reshape(heads, batch * tokens, 1)
        products = torch.baddbmm(above, left, y)
    return products.unflatten(1, (batch, tokens)).transpose(0, 1)
