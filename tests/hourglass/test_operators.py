"""Clustering and reconstruction alone: against the published numbers, and what must hold."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expedit_sam.hourglass.clustering import cluster_windows
from expedit_sam.hourglass.reconstruction import linear_response, reconstruction_weights
from tests.conftest import golden_file

SETTINGS = [
    "clusters81_iters5_temp0.01_win5",
    "clusters100_iters5_temp0.005_win5",
    "clusters121_iters3_temp0.01_win3",
    "clusters49_iters5_temp0.05_win5",
    "clusters25_iters10_temp0.01_win5",
]


@pytest.mark.parametrize("name", SETTINGS)
def test_operators_match_the_published_method(name: str, golden_meta: dict) -> None:
    golden = golden_file("operators")
    setting = next(entry for entry in golden_meta["operators"] if entry["name"] == name)
    features, side = golden["features"], math.isqrt(setting["num_clusters"])
    centroids, sizes, *_ = cluster_windows(
        features,
        (side, side),
        iterations=setting["iterations"],
        temperature=setting["temperature"],
        neighborhood=setting["neighborhood"],
    )
    expected = golden[f"{name}.centroids"].flatten(1, 2)
    torch.testing.assert_close(centroids, expected, rtol=0, atol=1e-4 * expected.abs().max())
    torch.testing.assert_close(sizes.sum(dim=1), torch.full((len(features),), 196.0))

    for neighbors in setting["reconstruction_k"]:
        weights = reconstruction_weights(
            features.flatten(1, 2), centroids, setting["temperature"], neighbors
        )
        # The published code divides by the L2 norm where the paper divides by the sum.
        weights = weights / weights.norm(dim=-1, keepdim=True)
        expected = golden[f"{name}.reconstructed_l2_k{neighbors}"]
        rebuilt = weights @ golden[f"{name}.refined"]
        torch.testing.assert_close(rebuilt, expected, rtol=0, atol=1e-4 * expected.abs().max())


@settings(max_examples=30)
@given(
    height=st.integers(1, 15),
    width=st.integers(1, 15),
    data=st.data(),
    neighborhood=st.sampled_from([1, 3, 5]),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_any_window_and_number_of_clusters(
    height: int, width: int, data: st.DataObject, neighborhood: int, scale: float
) -> None:
    size = (data.draw(st.integers(1, height)), data.draw(st.integers(1, width)))
    tokens = torch.randn(2, height, width, 8, generator=torch.Generator().manual_seed(0)) * scale
    centroids, sizes, shares, memberships = cluster_windows(
        tokens, size, iterations=3, temperature=1.0 / scale**2, neighborhood=neighborhood
    )
    assert centroids.shape == (2, size[0] * size[1], 8)
    assert torch.isfinite(centroids).all()
    torch.testing.assert_close(shares @ tokens.flatten(1, 2), centroids)
    torch.testing.assert_close(sizes.sum(dim=1), torch.full((2,), float(height * width)))
    everything_once = torch.ones(2, height * width)
    torch.testing.assert_close(memberships.sum(dim=-1), everything_once)
    assert ((memberships > 0).sum(dim=-1) <= neighborhood**2).all()
    weights = reconstruction_weights(tokens.flatten(1, 2), centroids, 1.0 / scale**2, neighbors=4)
    torch.testing.assert_close(weights.sum(dim=-1), everything_once)
    assert ((weights > 0).sum(dim=-1) <= 4).all()


@given(neighbors=st.integers(1, 9), temperature=st.floats(0.01, 10.0), seed=st.integers(0, 99))
def test_reconstruction_weights_are_a_softmax_of_squared_distances(
    neighbors: int, temperature: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(2, 20, 4, generator=generator)
    clusters = torch.randn(2, 7, 4, generator=generator)
    logits = -temperature * torch.cdist(tokens, clusters).square()
    farthest_kept = logits.topk(min(neighbors, 7), dim=-1).values[..., -1:]
    expected = logits.masked_fill(logits < farthest_kept, -torch.inf).softmax(dim=-1)
    for written in (temperature, torch.full((2, 1, 1), temperature)):
        weights = reconstruction_weights(tokens, clusters, written, neighbors)
        torch.testing.assert_close(weights, expected, rtol=0, atol=1e-4)


def test_a_cluster_for_every_token_gives_the_tokens_back() -> None:
    tokens = torch.randn(3, 7, 7, 16, generator=torch.Generator().manual_seed(0))
    centroids, sizes, *_ = cluster_windows(
        tokens, (7, 7), iterations=5, temperature=100.0, neighborhood=5
    )
    torch.testing.assert_close(centroids, tokens.flatten(1, 2))
    torch.testing.assert_close(sizes, torch.ones_like(sizes))


def test_far_distances_do_not_underflow() -> None:
    tokens, clusters = torch.tensor([[[0.0], [1e4]]]), torch.tensor([[[1e3], [9e3]]])
    weights = reconstruction_weights(tokens, clusters, 1.0, neighbors=2)
    torch.testing.assert_close(weights, torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))


def test_gradients_come_after_inference_mode() -> None:
    # A grid of no other test's: what it needs is made in inference mode, and kept.
    learning = torch.randn(2, 13, 11, 8, requires_grad=True)
    setting = {"iterations": 2, "temperature": 3.0, "neighborhood": 5}
    with torch.inference_mode():
        expected, *_ = cluster_windows(learning, (9, 9), **setting)
    clusters, *_ = cluster_windows(learning, (9, 9), **setting)
    clusters.sum().backward()
    torch.testing.assert_close(clusters.detach(), expected)
    assert learning.grad is not None
    assert learning.grad.any()


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_linear_response_is_exact_where_differences_go_every_way_alike(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    before = torch.linalg.qr(torch.randn(2, 300, 8, generator=generator))[0] * scale
    expected, start = torch.randn(2, 5, 8, generator=generator), torch.randn(5, 8)
    response = linear_response(before, before @ expected.transpose(1, 2), start)
    torch.testing.assert_close(response, expected, rtol=0, atol=1e-4)


def test_linear_response_is_exact_where_differences_have_two_variances() -> None:
    # Conjugate gradients take a step for each.
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(2, 300, 8, generator=generator))[0]
    before = basis * torch.tensor([1.0, 3.0] * 4)
    after = torch.randn(2, 300, 5, generator=generator)
    best = torch.linalg.lstsq(before, after).solution
    response = linear_response(before, after, torch.randn(5, 8, generator=generator))
    torch.testing.assert_close(response, best.transpose(1, 2), rtol=0, atol=1e-4)


def test_linear_response_of_nothing_is_no_change() -> None:
    flat, start = torch.zeros(1, 9, 4), torch.randn(3, 4)
    torch.testing.assert_close(linear_response(flat, flat @ start.T, start), start[None])
