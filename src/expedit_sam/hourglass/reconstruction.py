"""Token reconstruction: the way back from clusters to tokens (arXiv 2210.01035, section 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor

# Steps of ``linear_response``: more fit the clusters better, but not the finer differences. All are
# matrix products, so they export.
_STEPS = 2


def reconstruction_weights(logits: Tensor, neighbors: int) -> Tensor:
    """How much of each cluster goes into each rebuilt token.

    ``softmax(-temperature * |token - cluster|^2)`` over the nearest clusters of the token's window,
    0 for the others.

    Arguments:
        logits: NxLxK, of tokens and the clusters before the blocks refined them (see ``Clusters``).
        neighbors: clusters a token is rebuilt from; all of them if there are fewer.

    Returns:
        NxLxK weights; each token's sum to 1. ``weights @ refined`` rebuilds the tokens.
    """
    if neighbors >= logits.shape[-1]:
        return logits.softmax(dim=-1)
    nearest, places = logits.topk(neighbors, dim=-1, sorted=False)
    return torch.zeros_like(logits).scatter_(-1, places, nearest.softmax(dim=-1))


def linear_response(before: Tensor, after: Tensor, start: Tensor) -> Tensor:
    """How the differences between clusters have changed, as a linear map.

    From the start, each column of the map takes two steps of conjugate gradients towards the least
    ``|before @ M - after|^2``. It tells what became of finer differences, which went through no
    block. The published method has no such map.

    Arguments:
        before: BxNxC differences of N clusters from their surroundings before some blocks.
        after: BxNxO, the same after them.
        start: CxO, what there would be if the blocks had changed nothing.

    Returns:
        BxCxO.
    """
    number = before.shape[1]
    scale = (number * before.square().mean(dim=(1, 2), keepdim=True)).clamp_min(1e-12).rsqrt()
    before, change = before * scale, (after - before @ start) * scale
    covariance = before.transpose(1, 2) @ before
    residual = direction = before.transpose(1, 2) @ change
    energy = _column_squares(residual)
    response = start
    for _ in range(_STEPS):
        moved = covariance @ direction
        length = energy / (direction * moved).sum(dim=1, keepdim=True).clamp_min(1e-12)
        response = response + length * direction
        residual = residual - length * moved
        last, energy = energy, _column_squares(residual)
        direction = residual + energy / last.clamp_min(1e-12) * direction
    return response


def _column_squares(x: Tensor) -> Tensor:
    """Bx1xO, of the columns of BxCxO."""
    return x.square().sum(dim=1, keepdim=True)
