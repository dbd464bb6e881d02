"""Token reconstruction: the way back from clusters to tokens (arXiv 2210.01035, section 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor

from expedit_sam.products import linear, row_products

# Of conjugate gradients: more would fit the clusters better, but not the finer differences.
_STEPS = 2


def reconstruction_weights(
    tokens: Tensor, clusters: Tensor, temperature: Tensor | float, neighbors: int
) -> Tensor:
    """How much of each cluster goes into each rebuilt token.

    ``softmax(-temperature * |token - cluster|^2)`` over the nearest clusters of the token's window,
    0 for the others.

    Arguments:
        tokens: NxLxC, of N windows; best centred: distances come from dot products, in which a
            large common offset costs precision.
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
    """The linear map M of what some blocks did to the differences between clusters.

    It is applied to finer differences, which went through no block. Each row of M takes two steps
    of conjugate gradients (CGLS: Hestenes and Stiefel, 1952) from ``start`` toward the least
    ``|before @ M.T - after|^2``. The published method has no such map.

    Arguments:
        before: BxNxC differences of N clusters from their neighbourhood before the blocks.
        after: BxNxO, the same after them.
        start: OxC, the map if the blocks had changed nothing.

    Returns:
        BxOxC, M of each image.
    """
    residual = (after - linear(before, start)).transpose(1, 2).contiguous()
    response, direction = start, torch.zeros_like(start)
    last_squares, tiny = torch.ones_like(residual[..., :1]), torch.finfo(residual.dtype).tiny
    for _ in range(_STEPS):
        descent = row_products(residual, before.transpose(1, 2))  # minus half the gradient
        squares = _row_squares(descent)
        direction = descent + squares / last_squares.clamp_min(tiny) * direction
        change = row_products(direction, before)
        step = squares / _row_squares(change).clamp_min(tiny)
        response = response + step * direction
        residual = residual - step * change
        last_squares = squares
    return response


def _row_squares(x: Tensor) -> Tensor:
    """BxOx1, the squared norms of the rows of BxOxN."""
    return x.square().sum(dim=2, keepdim=True)
