"""Token reconstruction: the way back from clusters to tokens (arXiv 2210.01035, section 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor

from expedit_sam.products import linear, row_products

# Steps of ``linear_response``: more fit the clusters better, but not the finer differences.
_STEPS = 2


def reconstruction_weights(
    tokens: Tensor, clusters: Tensor, temperature: Tensor | float, neighbors: int
) -> Tensor:
    """How much of each cluster goes into each rebuilt token.

    ``softmax(-temperature * |token - cluster|^2)`` over the nearest clusters of the token's window,
    0 for the others.

    Arguments:
        tokens: NxLxC, of N windows; best centred, because distances are taken from dot products.
        clusters: NxKxC, before the blocks refined them.
        temperature: one number, or Nx1x1.
        neighbors: clusters a token is rebuilt from; all of them if there are fewer.

    Returns:
        NxLxK weights; each token's sum to 1. ``weights @ refined`` rebuilds the tokens.
    """
    squares = clusters.square().sum(dim=-1)[:, None]
    logits = temperature * (2 * tokens @ clusters.transpose(1, 2) - squares)
    if neighbors >= logits.shape[-1]:
        return logits.softmax(dim=-1)
    nearest, places = logits.topk(neighbors, dim=-1, sorted=False)
    return torch.zeros_like(logits).scatter_(-1, places, nearest.softmax(dim=-1))


def linear_response(before: Tensor, after: Tensor, start: Tensor) -> Tensor:
    """How the differences between clusters have changed, as a linear map.

    From the start, each row of the map takes two steps of conjugate gradients towards the least
    ``|before @ M.T - after|^2``. It tells what became of finer differences, which went through no
    block. The published method has no such map.

    Arguments:
        before: BxNxC differences of N clusters from their surroundings before some blocks.
        after: BxNxO, the same after them.
        start: OxC, what there would be if the blocks had changed nothing.

    Returns:
        BxOxC.
    """
    missing = (after - linear(before, start)).transpose(1, 2).contiguous()
    response, direction = start, torch.zeros_like(start)
    last, least = torch.ones_like(missing[..., :1]), torch.finfo(missing.dtype).tiny
    for _ in range(_STEPS):
        descent = row_products(missing, before.transpose(1, 2))
        energy = _row_squares(descent)
        direction = descent + energy / last.clamp_min(least) * direction
        moved = row_products(direction, before)
        length = energy / _row_squares(moved).clamp_min(least)
        response = response + length * direction
        missing = missing - length * moved
        last = energy
    return response


def _row_squares(x: Tensor) -> Tensor:
    """BxOx1, of the rows of BxOxN."""
    return x.square().sum(dim=2, keepdim=True)
