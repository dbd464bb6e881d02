"""A whole grid of tokens to a smaller grid of clusters, and the way back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor
from torch.nn import functional as F

from expedit_sam.hourglass.clustering import Clusters, cluster_windows
from expedit_sam.hourglass.parts import Part, assembled, each, parts_of
from expedit_sam.hourglass.reconstruction import linear_response, reconstruction_weights
from expedit_sam.hourglass.settings import Hourglass
from expedit_sam.products import linear, row_products


@dataclass(frozen=True)
class ClusterTraits:
    """What attention has to know of clusters beside their features.

    Attributes:
        log_sizes: Bxhxw, the logarithm of each cluster's number of tokens over the average number
            in a whole window; None where all count as one.
        value_scales: Bxhxw, 0 to 1, the factor that makes a cluster's value, less that of layer
            norm's bias, the mean of its tokens'; None leaves values as they are.
    """

    log_sizes: Tensor | None = None
    value_scales: Tensor | None = None

    def split(self, rows: int) -> Iterator[ClusterTraits]:
        """The traits of so many rows of clusters at a time."""
        parts = (
            repeat(None) if trait is None else trait.split(rows, dim=1)
            for trait in (self.log_sizes, self.value_scales)
        )
        return map(ClusterTraits, *parts)


@dataclass(frozen=True)
class Contraction:
    """A grid of clusters and what it takes to go back to tokens.

    Attributes:
        clusters: BxhxwxC.
        traits: what attention has to know of them.
    """

    clusters: Tensor
    traits: ClusterTraits
    _parts: list[list[Part]]
    _back: list[_WayBack]

    def expand(self, refined: Tensor, outward: Tensor | None = None) -> Tensor:
        """Rebuild tokens from clusters that further blocks have refined.

        Arguments:
            refined: BxhxwxC.
            outward: OxC, what tokens are projected with next. Here it costs less, because clusters
                are fewer. None for nothing.

        Returns:
            BxHxWxC, or BxHxWxO projected.
        """
        if outward is not None:
            refined = linear(refined, outward.to(refined.dtype))
        windows = [part.cut_clusters(refined) for part in each(self._parts)]
        response = None
        if all(back.tokens is not None for back in self._back):
            response = self._response(windows, outward).to(refined.dtype)
        rebuilt = [
            back.rebuilt(clusters, response)
            for back, clusters in zip(self._back, windows, strict=True)
        ]
        return assembled(self._parts, rebuilt, lambda part: part.window_shape)

    def _response(self, windows: list[Tensor], outward: Tensor | None) -> Tensor:
        """BxOxC, the linear map of what the blocks did to differences between neighbours."""
        before = [part.cut_clusters(self.clusters) for part in each(self._parts)]
        channels, device = self.clusters.shape[-1], self.clusters.device
        start = torch.eye(channels, device=device) if outward is None else outward.float()
        return linear_response(self._differences(before), self._differences(windows), start)

    def _differences(self, windows: list[Tensor]) -> Tensor:
        """BxNxC, all clusters less the mean of their neighbourhood in their window."""
        batch = len(self.clusters)
        pieces = [
            _of_images(_from_neighbors(clusters.float(), part.cluster_shape), batch)
            for part, clusters in zip(each(self._parts), windows, strict=True)
        ]
        return torch.cat(pieces, dim=1)


def contract(tokens: Tensor, hourglass: Hourglass, window: int) -> Contraction:
    """Cluster the tokens of every window of a grid.

    Source: arXiv 2210.01035, section 3.3. Unlike there, windows at the right and bottom edge hold
    only the tokens that exist and get clusters in proportion, so none is spent on padding.

    Arguments:
        tokens: BxHxWxC.
        hourglass: the setting.
        window: side of a window in tokens.

    Returns:
        the clusters, a grid smaller by ``hourglass.cluster_side(window) / window`` on each side.
    """
    side = hourglass.cluster_side(window)
    features = tokens.float()
    height, width = map(int, tokens.shape[1:3])  # whole numbers in a trace too
    parts = parts_of((height, width), window, side)
    windows = [part.cut_tokens(features) for part in each(parts)]
    means = [w.mean(dim=(1, 2), keepdim=True) for w in windows]
    centred = [w.sub_(mean) for w, mean in zip(windows, means, strict=True)]
    temperatures = _temperature(centred, hourglass, len(tokens))

    token_variances = _variance(features)[..., None] if hourglass.mean_values else None
    clusters, sizes, variances, back = [], [], [], []
    for part, tokens_of_part, mean in zip(each(parts), centred, means, strict=True):
        temperature = temperatures.repeat_interleave(part.number)[:, None, None]
        found = cluster_windows(
            tokens_of_part,
            part.cluster_shape,
            iterations=hourglass.iterations,
            temperature=temperature,
            neighborhood=hourglass.neighborhood,
        )
        clusters.append(found.centroids + mean.flatten(1, 2))
        sizes.append(found.sizes)
        flat = tokens_of_part.flatten(1, 2)
        back.append(_way_back(flat, found, temperature, hourglass, tokens.dtype))
        if token_variances is not None:
            own = part.cut_tokens(token_variances).flatten(1, 2)
            variances.append((found.shares @ own)[..., 0])

    def grid(pieces: list[Tensor]) -> Tensor:
        return assembled(parts, pieces, lambda part: part.cluster_shape)

    average = (window / side) ** 2
    log_sizes = (grid(sizes) / average).clamp_min(1e-6).log() if hourglass.size_aware else None
    together = grid(clusters)
    scales = _value_scales(together, grid(variances)) if hourglass.mean_values else None
    return Contraction(
        clusters=together.to(tokens.dtype),
        traits=ClusterTraits(log_sizes, scales),
        _parts=parts,
        _back=back,
    )


def _way_back(
    tokens: Tensor, found: Clusters, temperature: Tensor, hourglass: Hourglass, dtype: torch.dtype
) -> _WayBack:
    """How the tokens of some windows are rebuilt, stored in the tokens' own type."""
    weights = found.memberships
    if (neighbors := hourglass.reconstruction_neighbors) is not None:
        weights = reconstruction_weights(tokens, found.centroids, temperature, neighbors)
    return _WayBack(weights, found.shares, tokens.to(dtype) if hourglass.keep_detail else None)


@dataclass(frozen=True)
class _WayBack:
    """The way back from the K clusters of each of N windows to its L tokens.

    Attributes:
        weights: NxLxK, how much of each cluster goes into each token.
        shares: NxKxL, how much of each cluster each token was.
        tokens: NxLxC less their window's mean; None where no details are kept.
    """

    weights: Tensor
    shares: Tensor
    tokens: Tensor | None

    def rebuilt(self, refined: Tensor, response: Tensor | None) -> Tensor:
        """NxLxO tokens from NxKxO clusters; BxOxC ``response`` changes details as blocks did."""
        weights = self.weights.to(refined.dtype)
        if response is None or self.tokens is None:
            return weights @ refined
        images = _of_images(self.tokens, len(response))
        mapped = row_products(images, response).view(*self.tokens.shape[:2], -1)
        # Of mapped tokens only details count: their mean in a cluster gives way to the refined one.
        return (weights @ (refined - self.shares.to(refined.dtype) @ mapped)).add_(mapped)


def _value_scales(clusters: Tensor, variances: Tensor) -> Tensor:
    """Bxhxw: the deviation of BxhxwxC clusters over channels, over that of their tokens.

    Arguments:
        variances: Bxhxw, the mean variance over channels of each cluster's tokens.
    """
    # A cluster that every token has left has hardly any of their variance.
    return (_variance(clusters) / variances.clamp_min(1e-12)).sqrt().clamp_max(1)


def _variance(x: Tensor) -> Tensor:
    """Variance over channels; ``Tensor.var`` takes several times as long on a CPU."""
    squares = torch.linalg.vector_norm(x, dim=-1).square() / x.shape[-1]
    return (squares - x.mean(dim=-1).square()).clamp_min(0)


def _of_images(windows: Tensor, batch: int) -> Tensor:
    """(B*windows)xLxC to Bx(windows*L)xC: what windows hold, image by image."""
    return windows.unflatten(0, (batch, -1)).flatten(1, 2)


def _from_neighbors(clusters: Tensor, shape: tuple[int, int]) -> Tensor:
    """NxKxC clusters less the mean of the 3x3 around each: the finest differences there are."""
    grid = clusters.transpose(1, 2).unflatten(2, shape)
    mean = F.avg_pool2d(grid, 3, stride=1, padding=1, count_include_pad=False)
    return (grid - mean).flatten(2).transpose(1, 2)


def _temperature(windows: list[Tensor], hourglass: Hourglass, batch: int) -> Tensor:
    """B temperatures: the setting's, divided by v where it is scale-free.

    v is the mean squared distance of an image's tokens from their window's mean.

    Arguments:
        windows: pieces of (B*windows)xhxwxC tokens, less their window's mean.
    """
    if not hourglass.scale_free:
        return torch.full((batch,), hourglass.temperature, device=windows[0].device)
    # Summed token by token: a single sum of all numbers would accumulate rounding.
    squares = [torch.linalg.vector_norm(w, dim=-1).square() for w in windows]
    total = sum(s.reshape(batch, -1).sum(dim=1) for s in squares)
    count = sum(w.shape[0] * w.shape[1] * w.shape[2] for w in windows) // batch
    return hourglass.temperature * count / torch.as_tensor(total).clamp_min(1e-12)
