"""The hourglass made visible: which tokens of an image end up in the same cluster."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from expedit_sam.hourglass import Hourglass
from expedit_sam.hourglass.contraction import Contraction, contract
from expedit_sam.model.block import clustering_window
from expedit_sam.model.image_encoder import first_tokens
from expedit_sam.predictor import SamPredictor

_TOKENS = (255, 255, 255)
_CLUSTERS = (255, 196, 0)
_WINDOWS = (214, 50, 48)


@dataclass(frozen=True)
class ClusterMap:
    """How the tokens of an image were clustered.

    Attributes:
        labels: hxw, number of the cluster that each token of the picture is nearest to.
        clusters: number of clusters of the whole grid, padding included.
        tokens: number of tokens of the whole grid.
        window: side of a window in tokens.
        block: index of the block before which tokens are clustered.
        depth: number of blocks.
    """

    labels: np.ndarray
    clusters: int
    tokens: int
    window: int
    block: int
    depth: int


@torch.no_grad()
def cluster_map(predictor: SamPredictor, image: np.ndarray, hourglass: Hourglass) -> ClusterMap:
    """Run the blocks before the hourglass on an HxWx3 image, and cluster what they give."""
    model, encoder = predictor.model, predictor.model.image_encoder
    resized = predictor.transform.apply_image(image)
    pixels = torch.as_tensor(resized, device=predictor.device).permute(2, 0, 1)[None]
    depth = len(encoder.blocks)
    pixels = model.preprocess(pixels).to(encoder.patch_embed.proj.weight.dtype)
    tokens = first_tokens(encoder, pixels, hourglass.block(depth)).float()
    window = clustering_window(encoder.blocks)
    # ``_nearest`` expands numbers of clusters, to which a token's details must not be added.
    contraction = contract(tokens, replace(hourglass, keep_detail=False), window)
    patch = encoder.img_size // tokens.shape[1]
    rows, columns = (-(-length // patch) for length in resized.shape[:2])
    return ClusterMap(
        labels=_nearest(contraction)[:rows, :columns],
        clusters=contraction.clusters[0, ..., 0].numel(),
        tokens=tokens[0, ..., 0].numel(),
        window=window,
        block=hourglass.block(depth),
        depth=depth,
    )


def draw_clusters(
    image: np.ndarray, found: ClusterMap, *, colors: bool, tokens: bool, windows: bool
) -> np.ndarray:
    """Draw the borders of clusters over an HxWx3 image.

    Arguments:
        image: the image that the map was made of.
        found: the map.
        colors: paint each cluster in the mean colour of its tokens.
        tokens: draw the grid of tokens.
        windows: draw the borders of windows, which no cluster crosses.

    Returns:
        HxWx3 uint8.
    """
    height, width = image.shape[:2]
    rows, columns = found.labels.shape
    # Tokens are square and the last ones may reach over the picture's edge.
    side = max(width / columns, height / rows)
    row_of = np.minimum((np.arange(height) / side).astype(int), rows - 1)
    column_of = np.minimum((np.arange(width) / side).astype(int), columns - 1)
    labels = found.labels[row_of[:, None], column_of]
    picture = _mean_colors(image, labels) if colors else image.copy()
    stroke = max(1, round(max(height, width) / 640))
    if tokens:
        token = row_of[:, None] * columns + column_of
        picture = _lines(picture, token, _TOKENS, stroke, opacity=0.35)
    picture = _lines(picture, labels, _CLUSTERS, stroke, opacity=1.0)
    if windows:
        window = (row_of // found.window)[:, None] * columns + column_of // found.window
        picture = _lines(picture, window, _WINDOWS, 2 * stroke, opacity=1.0)
    return picture


def _nearest(contraction: Contraction) -> np.ndarray:
    """HxW: the cluster with the largest weight in the reconstruction of each token."""
    rows, columns = contraction.clusters.shape[1:3]
    which = torch.eye(rows * columns, device=contraction.clusters.device)
    rebuilt = contraction.expand(which.reshape(1, rows, columns, -1))
    return rebuilt[0].argmax(dim=-1).cpu().numpy()


def _mean_colors(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    _, flat = np.unique(labels, return_inverse=True)
    flat = flat.ravel()
    sizes = np.bincount(flat)
    means = [np.bincount(flat, image[..., c].ravel()) / sizes for c in range(3)]
    return np.stack(means, axis=-1)[flat].reshape(image.shape).astype(np.uint8)


def _lines(
    picture: np.ndarray,
    labels: np.ndarray,
    color: tuple[int, int, int],
    stroke: int,
    *,
    opacity: float,
) -> np.ndarray:
    """Paint where a pixel's label differs from that of its right or lower neighbour."""
    border = np.zeros(labels.shape, np.uint8)
    border[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    border[:-1] |= labels[:-1] != labels[1:]
    thick = cv2.dilate(border, np.ones((stroke, stroke), np.uint8))
    painted = cv2.addWeighted(picture, 1 - opacity, np.full_like(picture, color), opacity, 0)
    return np.where(thick[..., None] > 0, painted, picture)
