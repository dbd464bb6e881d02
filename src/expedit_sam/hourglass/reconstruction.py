"""Token reconstruction: the way back from clusters to tokens (arXiv 2210.01035, section 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor

# How strongly ``linear_response`` holds to changing nothing, over the clusters' mean variance; and
# its steps, which come close enough to the solution: all are matrix products, so they export.
_RIDGE = 0.5
_STEPS = 2


def reconstruction_weights(
    tokens: Tensor, centroids: Tensor, *, temperature: Tensor | float, neighbors: int
) -> Tensor:
    """How much of each cluster goes into each rebuilt token.

    ``softmax(-temperature * |token - cluster|^2)`` over the nearest clusters of the token's window,
    0 for the others.

    Arguments:
        tokens: NxLxC tokens before clustering.
        centroids: NxKxC clusters before the blocks refined them.
        temperature: one number, or N of them.
        neighbors: clusters a token is rebuilt from; all of them if there are fewer.

    Returns:
        NxLxK weights; each token's sum to 1. ``weights @ refined`` rebuilds the tokens.
    """
    if isinstance(temperature, Tensor):
        temperature = temperature.reshape(-1, 1, 1)
    scores = -temperature * _relative_distances(tokens, centroids)
    if neighbors >= centroids.shape[1]:
        return scores.softmax(dim=-1)
    nearest, places = scores.topk(neighbors, dim=-1, sorted=False)
    return torch.zeros_like(scores).scatter_(-1, places, nearest.softmax(dim=-1))


def linear_response(before: Tensor, after: Tensor) -> Tensor:
    """How the differences between clusters have changed, as a linear map: ridge regression.

    Of all maps M it seeks the one with the least ``|before @ M - after|^2 + ridge |M - 1|^2``, by
    two steps of conjugate gradients from M = 1. It tells what became of finer differences, which
    went through no block. The published method has no such step.

    Arguments:
        before: BxNxC differences of N clusters from their window's mean before some blocks.
        after: BxNxC, the same after them.

    Returns:
        BxCxC.
    """
    number, channels = before.shape[1:]
    scale = (number * before.square().mean(dim=(1, 2), keepdim=True)).clamp_min(1e-12).rsqrt()
    before, change = before * scale, (after - before) * scale
    transposed = before.transpose(1, 2)
    covariance = transposed @ before
    response = torch.eye(channels, device=before.device).expand_as(covariance)
    residual = direction = transposed @ change
    energy = _total(residual * residual)
    for _ in range(_STEPS):
        moved = covariance @ direction + _RIDGE * direction
        length = energy / _total(direction * moved).clamp_min(1e-12)
        response = response + length * direction
        residual = residual - length * moved
        last, energy = energy, _total(residual * residual)
        direction = residual + energy / last.clamp_min(1e-12) * direction
    return response


def _total(x: Tensor) -> Tensor:
    """Bx1x1 sums of BxCxC."""
    return x.sum(dim=(1, 2), keepdim=True)


def _relative_distances(tokens: Tensor, centroids: Tensor) -> Tensor:
    """NxLxK squared distances of NxLxC tokens to NxKxC centroids, less each token's squared norm.

    That norm is the same for all clusters of a token: no softmax or ranking over them sees it.
    """
    squares = centroids.square().sum(dim=-1)[:, None, :]
    return torch.baddbmm(squares, tokens, centroids.transpose(1, 2), alpha=-2)
