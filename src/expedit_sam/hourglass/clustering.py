"""Token clustering: soft k-means inside one window (arXiv 2210.01035, section 3.3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from expedit_sam.kept import kept
from expedit_sam.products import row_products


class Clusters(NamedTuple):
    """The K clusters of the L tokens of each of N windows, in row order of their grid.

    Attributes:
        centroids: NxKxC.
        sizes: NxK, how many tokens each holds; they sum to L in a window.
        shares: NxKxL, each token's weight in the mean that a cluster is; a cluster's sum to 1.
        memberships: NxLxK, how much each token belongs to each cluster in the last round of
            k-means; a token's sum to 1.
    """

    centroids: Tensor
    sizes: Tensor
    shares: Tensor
    memberships: Tensor


def cluster_windows(
    tokens: Tensor,
    size: tuple[int, int],
    *,
    iterations: int,
    temperature: Tensor | float,
    neighborhood: int,
) -> Clusters:
    """Cluster the tokens of each window.

    A token joins clusters near its own place only, each with the weight
    ``softmax_j(-temperature * |token - cluster_j|^2)``; a cluster is the weighted mean of its
    tokens.

    Arguments:
        tokens: NxHxWxC, N windows; best centred: distances come from dot products, in which a
            large common offset costs precision.
        size: rows and columns of the grid of clusters.
        iterations: rounds of soft k-means, at least 1.
        temperature: one number, or Nx1x1.
        neighborhood: odd width of the square of clusters a token may join.
    """
    height, width = map(int, tokens.shape[1:3])  # whole numbers in a trace too
    tokens = tokens.flatten(1, 2)
    # Clusters are means of tokens, so products of tokens with tokens give all distances: half the
    # work of products with every round's clusters.
    products_of_tokens = row_products(tokens, tokens).mul_(2 * temperature)

    barred = _outside_neighborhood((height, width), size, neighborhood, tokens.device)
    shares = _first_shares((height, width), size, tokens.device).to(tokens.dtype)
    sizes = memberships = tokens.new_empty(0)
    for _ in range(iterations):
        products = products_of_tokens @ shares
        squares = (shares * products).sum(dim=1, keepdim=True)
        logits = torch.sub(products, squares, alpha=0.5).add_(barred)
        memberships = logits.softmax(dim=-1)
        sizes = memberships.sum(dim=1)
        # A cluster that every token has left keeps a tiny size instead of dividing by zero.
        shares = memberships / sizes.clamp_min(1e-12)[:, None]
    by_cluster = shares.transpose(1, 2)
    return Clusters(by_cluster @ tokens, sizes, by_cluster, memberships)


@kept
def _first_shares(grid: tuple[int, int], clusters: tuple[int, int], device: torch.device) -> Tensor:
    """LxK, the shares before the first round: adaptive average pooling. All are in row order."""
    each = torch.eye(grid[0] * grid[1], device=device).view(-1, 1, *grid)
    return F.adaptive_avg_pool2d(each, clusters).flatten(1)


@kept
def _outside_neighborhood(
    grid: tuple[int, int], clusters: tuple[int, int], neighborhood: int, device: torch.device
) -> Tensor:
    """LxK, minus infinity where a token (row order) may not join a cluster (row order), else 0."""
    near = []
    for tokens_along, clusters_along in zip(grid, clusters, strict=True):
        home = torch.arange(tokens_along, device=device) * clusters_along // tokens_along
        away = (home[:, None] - torch.arange(clusters_along, device=device)).abs()
        near.append(away <= neighborhood // 2)
    rows, columns = near
    together = rows[:, None, :, None] & columns[None, :, None, :]
    together = together.reshape(grid[0] * grid[1], clusters[0] * clusters[1])
    # Adding minus infinity to logits takes half as long as filling them by a mask.
    return torch.zeros(together.shape, device=device).masked_fill_(~together, -torch.inf)
