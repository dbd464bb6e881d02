"""A whole grid of tokens to a smaller grid of clusters, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor
from torch.nn import functional as F

from expedit_sam.hourglass.clustering import cluster_windows
from expedit_sam.hourglass.reconstruction import linear_response, reconstruction_weights
from expedit_sam.hourglass.settings import Hourglass
from expedit_sam.products import linear, row_products


@dataclass(frozen=True)
class ClusterTraits:
    """What attention has to know of clusters beside their features.

    Attributes:
        log_sizes: Bxhxw logarithms of how many tokens each cluster holds, over the tokens a
            cluster of a whole window holds on average; None where all count as one.
        value_scales: Bxhxw, 0 to 1: a cluster so much shorter after layer norm would be the mean of
            what layer norm makes of its tokens; None leaves values as they are.
    """

    log_sizes: Tensor | None = None
    value_scales: Tensor | None = None

    def split(self, rows: int) -> Iterator[ClusterTraits]:
        """Those of so many rows of clusters at a time."""
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
    _parts: list[list[_Part]]
    _back: list[_Back]

    def expand(self, refined: Tensor, outward: Tensor | None = None) -> Tensor:
        """Rebuild tokens from clusters that further blocks have refined.

        Arguments:
            refined: BxhxwxC.
            outward: OxC, what tokens are projected with next, if so: clusters are fewer.

        Returns:
            BxHxWxC, or BxHxWxO projected.
        """
        if outward is not None:
            refined = linear(refined, outward)
        windows = [part.cut_clusters(refined) for part in _each(self._parts)]
        response = None
        if all(back.tokens is not None for back in self._back):
            response = self._response(windows, outward).to(refined.dtype)
        rebuilt = [
            back.rebuilt(clusters, response)
            for back, clusters in zip(self._back, windows, strict=True)
        ]
        return _assembled(self._parts, rebuilt, lambda part: part.window_shape)

    def _response(self, windows: list[Tensor], outward: Tensor | None) -> Tensor:
        """BxOxC, how the blocks have changed differences between neighbours."""
        before = [part.cut_clusters(self.clusters) for part in _each(self._parts)]
        channels, device = self.clusters.shape[-1], self.clusters.device
        start = torch.eye(channels, device=device) if outward is None else outward.float()
        return linear_response(self._differences(before), self._differences(windows), start)

    def _differences(self, windows: list[Tensor]) -> Tensor:
        """BxNxC, of all clusters from the mean of themselves and their neighbours in the window."""
        batch = len(self.clusters)
        pieces = [
            _of_images(_from_neighbors(clusters.float(), part.cluster_shape), batch)
            for part, clusters in zip(_each(self._parts), windows, strict=True)
        ]
        return torch.cat(pieces, dim=1)


def contract(tokens: Tensor, hourglass: Hourglass, window: int) -> Contraction:
    """Cluster the tokens of every window of a grid.

    Windows at the right and bottom edge hold only the tokens that exist and get clusters in
    proportion, so no cluster is spent on padding.

    Arguments:
        tokens: BxHxWxC.
        hourglass: the setting.
        window: side of a window in tokens.

    Returns:
        the clusters, a grid smaller by ``hourglass.cluster_side(window) / window`` on each side.
    """
    side = hourglass.cluster_side(window)
    features = tokens.float()
    parts = [
        [_Part.of(rows, columns, window, side) for columns in _spans(int(tokens.shape[2]), window)]
        for rows in _spans(int(tokens.shape[1]), window)  # whole numbers in a trace too
    ]
    token_variances = _variance(features)[..., None] if hourglass.mean_values else None
    centred, means = [], []
    for part in _each(parts):
        windows = _cut(features, part.rows, part.columns, part.window_shape)
        means.append(windows.mean(dim=(1, 2), keepdim=True))
        centred.append(windows.sub_(means[-1]))
    temperatures = _temperature(centred, hourglass, tokens.shape[0])

    clusters, sizes, variances, back = [], [], [], []
    for i, (part, windows) in enumerate(zip(_each(parts), centred, strict=True)):
        temperature = temperatures.repeat_interleave(part.number)[:, None, None]
        found = cluster_windows(
            windows,
            part.cluster_shape,
            iterations=hourglass.iterations,
            temperature=temperature,
            neighborhood=hourglass.neighborhood,
        )
        flat, weights = windows.flatten(1, 2), found.belonging
        if (neighbors := hourglass.reconstruction_neighbors) is not None:
            weights = reconstruction_weights(flat, found.centroids, temperature, neighbors)
        kept = flat.to(tokens.dtype) if hourglass.keep_detail else None
        back.append(_Back(weights, found.shares, kept))
        clusters.append(found.centroids + means[i].flatten(1, 2))
        sizes.append(found.sizes)
        if token_variances is not None:
            windows = _cut(token_variances, part.rows, part.columns, part.window_shape)
            variances.append((found.shares @ windows.flatten(1, 2))[..., 0])

    def grid(pieces: list[Tensor]) -> Tensor:
        return _assembled(parts, pieces, lambda part: part.cluster_shape)

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


@dataclass(frozen=True)
class _Back:
    """The way back from the K clusters of each of N windows to its L tokens.

    Attributes:
        weights: NxLxK, how much of each cluster goes into each token.
        shares: NxKxL, how much of each cluster each token was.
        tokens: NxLxC from their window's mean; None where no details are kept.
    """

    weights: Tensor
    shares: Tensor
    tokens: Tensor | None

    def rebuilt(self, refined: Tensor, response: Tensor | None) -> Tensor:
        """NxLxO tokens from NxKxO clusters, and BxOxC, what became of differences between them."""
        weights = self.weights.to(refined.dtype)
        if response is None or self.tokens is None:
            return weights @ refined
        images = _of_images(self.tokens, len(response))
        moved = row_products(images, response).view(*self.tokens.shape[:2], -1)
        # A cluster's own part of what is moved gives way to what the blocks have made of it.
        return (weights @ (refined - self.shares.to(refined.dtype) @ moved)).add_(moved)


@dataclass(frozen=True)
class _Part:
    """Adjacent windows of one shape: a rectangle of the token grid and of the cluster grid."""

    rows: tuple[int, int]
    columns: tuple[int, int]
    window_shape: tuple[int, int]
    cluster_rows: tuple[int, int]
    cluster_columns: tuple[int, int]
    cluster_shape: tuple[int, int]

    @property
    def across(self) -> int:
        return (self.columns[1] - self.columns[0]) // self.window_shape[1]

    @property
    def number(self) -> int:
        return self.across * ((self.rows[1] - self.rows[0]) // self.window_shape[0])

    def cut_clusters(self, grid: Tensor) -> Tensor:
        """(B*number) x (h*w) x C clusters of the windows, of a BxhxwxC grid."""
        windows = _cut(grid, self.cluster_rows, self.cluster_columns, self.cluster_shape)
        return windows.flatten(1, 2)

    @staticmethod
    def of(rows: tuple[int, int], columns: tuple[int, int], window: int, side: int) -> _Part:
        spans, shapes, cluster_spans, cluster_shapes = [], [], [], []
        for start, end in (rows, columns):
            extent = min(window, end - start)
            cluster_extent = max(1, round(extent * side / window))
            first = start // window * side
            spans.append((start, end))
            shapes.append(extent)
            cluster_spans.append((first, first + (end - start) // extent * cluster_extent))
            cluster_shapes.append(cluster_extent)
        return _Part(
            spans[0],
            spans[1],
            (shapes[0], shapes[1]),
            cluster_spans[0],
            cluster_spans[1],
            (cluster_shapes[0], cluster_shapes[1]),
        )


def _spans(length: int, window: int) -> list[tuple[int, int]]:
    """The stretch of whole windows along one axis, and the shorter one left over."""
    whole = length // window * window
    return [span for span in ((0, whole), (whole, length)) if span[0] < span[1]]


def _each(parts: list[list[_Part]]) -> Iterator[_Part]:
    return (part for row in parts for part in row)


def _assembled(
    parts: list[list[_Part]], pieces: list[Tensor], shape: Callable[[_Part], tuple[int, int]]
) -> Tensor:
    """The grid, BxHxWxC or BxHxW, of what every part's windows hold."""
    following = iter(pieces)
    rows = [
        torch.cat([_join(next(following), part, shape(part)) for part in row], 2) for row in parts
    ]
    return torch.cat(rows, dim=1)


def _value_scales(clusters: Tensor, variances: Tensor) -> Tensor:
    """Bxhxw, from BxhxwxC clusters and Bxhxw, the mean variance of their tokens over channels."""
    return (_variance(clusters) / variances.clamp_min(1e-12)).sqrt()


def _variance(x: Tensor) -> Tensor:
    """Over channels; ``Tensor.var`` takes several times as long on a CPU."""
    squares = torch.linalg.vector_norm(x, dim=-1).square() / x.shape[-1]
    return (squares - x.mean(dim=-1).square()).clamp_min(0)


def _of_images(windows: Tensor, batch: int) -> Tensor:
    """(B*number) x L x C of windows to B x (number*L) x C of images."""
    return windows.unflatten(0, (batch, -1)).flatten(1, 2)


def _from_neighbors(clusters: Tensor, shape: tuple[int, int]) -> Tensor:
    """NxKxC clusters less the mean of the 3x3 around each: they differ as details do."""
    grid = clusters.transpose(1, 2).unflatten(2, shape)
    mean = F.avg_pool2d(grid, 3, stride=1, padding=1, count_include_pad=False)
    return (grid - mean).flatten(2).transpose(1, 2)


def _temperature(windows: list[Tensor], hourglass: Hourglass, batch: int) -> Tensor:
    """One temperature an image, over its tokens' mean squared distance from their window's mean."""
    if not hourglass.scale_free:
        return torch.full((batch,), hourglass.temperature, device=windows[0].device)
    # Norms of tokens first: one of all numbers at once would gather rounding.
    squares = [torch.linalg.vector_norm(w, dim=-1).square() for w in windows]
    total = sum(s.reshape(batch, -1).sum(dim=1) for s in squares)
    count = sum(w.shape[0] * w.shape[1] * w.shape[2] for w in windows) // batch
    return hourglass.temperature * count / torch.as_tensor(total).clamp_min(1e-12)


def _cut(
    grid: Tensor, rows: tuple[int, int], columns: tuple[int, int], shape: tuple[int, int]
) -> Tensor:
    """(B*number) x shape x C windows of a rectangle of a BxHxWxC grid, copied."""
    piece = grid[:, rows[0] : rows[1], columns[0] : columns[1]]
    batch, height, width, channels = piece.shape
    piece = piece.reshape(
        batch, height // shape[0], shape[0], width // shape[1], shape[1], channels
    )
    piece = piece.transpose(2, 3).clone(memory_format=torch.contiguous_format)
    return piece.view(-1, shape[0], shape[1], channels)


def _join(windows: Tensor, part: _Part, shape: tuple[int, int]) -> Tensor:
    """The inverse of ``_cut``, from (B*number) x (h*w) x C, or without channels."""
    down, channels = part.number // part.across, windows.shape[2:]
    windows = windows.view(-1, down, part.across, shape[0], shape[1], *channels)
    return windows.transpose(2, 3).reshape(-1, down * shape[0], part.across * shape[1], *channels)
