from __future__ import annotations

import numpy as np

from expedit_sam import SamPredictor
from expedit_sam.demo.clusters import cluster_map, draw_clusters
from expedit_sam.demo.networks import Networks
from expedit_sam.hourglass import PRESETS, Hourglass
from expedit_sam.model.sam import Sam


def test_as_many_clusters_as_tokens_leaves_each_alone(
    tiny_networks: Networks, photo: np.ndarray
) -> None:
    predictor = SamPredictor(tiny_networks.sam("vit_s"))
    every = Hourglass(location=1, clusters=196, temperature=1e6)
    found = cluster_map(predictor, photo, every)
    # 20x20 tokens of 16 pixels; the photo's 150x221 fill 217x320 of the 320x320.
    assert found.tokens == found.clusters == 400
    assert found.labels.shape == (14, 20)
    assert len(np.unique(found.labels)) > 250


def test_no_cluster_crosses_a_window(tiny_networks: Networks, photo: np.ndarray) -> None:
    found = tiny_networks.clusters("vit_s", "quality", photo)
    assert (found.block, found.depth, found.window) == (2, 4, 14)
    assert found.clusters == 13 * 13
    left, right = found.labels[:, :14], found.labels[:, 14:]
    assert not set(left.ravel()) & set(right.ravel())


def test_networks_in_bfloat16_are_looked_into(photo: np.ndarray, tiny_sam: Sam) -> None:
    exact = cluster_map(SamPredictor(tiny_sam), photo, PRESETS["fast"])
    tiny_sam.image_encoder.bfloat16()
    found = cluster_map(SamPredictor(tiny_sam), photo, PRESETS["fast"])
    assert (found.labels == exact.labels).mean() > 0.9


def test_drawing(tiny_networks: Networks, photo: np.ndarray) -> None:
    found = tiny_networks.clusters("vit_s", "fast", photo)
    plain = draw_clusters(photo, found, colors=False, tokens=False, windows=False)
    assert plain.shape == photo.shape
    changed = (plain != photo).any(axis=-1)
    assert 0.02 < changed.mean() < 0.6
    pictures = [
        draw_clusters(photo, found, **{"colors": False, "tokens": False, "windows": False} | layer)
        for layer in ({"colors": True}, {"tokens": True}, {"windows": True})
    ]
    for picture in pictures:
        assert (picture != plain).any()
    # Inside a cluster, its mean colour is everywhere.
    assert len(np.unique(pictures[0].reshape(-1, 3), axis=0)) <= found.clusters + 1
