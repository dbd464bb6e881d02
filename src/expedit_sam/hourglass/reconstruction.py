"""Token reconstruction: the way back from clusters to tokens (arXiv 2210.01035, section 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor


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
    nearest, places = scores.topk(min(neighbors, centroids.shape[1]), dim=-1)
    return torch.zeros_like(scores).scatter_(-1, places, nearest.softmax(dim=-1))


def _relative_distances(tokens: Tensor, centroids: Tensor) -> Tensor:
    """NxLxK squared distances of NxLxC tokens to NxKxC centroids, less each token's squared norm.

    That norm is the same for all clusters of a token: no softmax or ranking over them sees it.
    """
    squares = centroids.square().sum(dim=-1)[:, None, :]
    return torch.baddbmm(squares, tokens, centroids.transpose(1, 2), alpha=-2)
