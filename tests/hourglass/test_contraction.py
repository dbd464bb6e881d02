from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expedit_sam.hourglass.contraction import _from_neighbors, contract
from expedit_sam.hourglass.settings import Hourglass


def tokens(height: int, width: int, batch: int = 2, channels: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, height, width, channels, generator=generator)


@settings(max_examples=40)
@given(height=st.integers(1, 45), width=st.integers(1, 45), side=st.integers(1, 14))
def test_every_grid_contracts_and_expands(height: int, width: int, side: int) -> None:
    grid = tokens(height, width)
    contraction = contract(grid, Hourglass(clusters=side * side), 14)
    assert contraction.expand(contraction.clusters).shape == grid.shape
    assert contraction.clusters.shape[:3] == contraction.traits.log_sizes.shape
    # Every token belongs somewhere, and nothing is spent on padding.
    held = contraction.traits.log_sizes.exp().sum(dim=(1, 2)) * (14 / side) ** 2
    torch.testing.assert_close(held, torch.full((2,), float(height * width)), rtol=1e-3, atol=0.1)
    rows, columns = contraction.clusters.shape[1:3]
    assert rows <= height or rows <= side
    assert columns <= width or columns <= side


def test_edge_windows_get_clusters_in_proportion() -> None:
    contraction = contract(tokens(64, 64), Hourglass(clusters=81), 14)
    assert contraction.clusters.shape[1:3] == (41, 41)


def test_as_many_clusters_as_tokens_changes_nothing() -> None:
    grid = tokens(20, 33)
    contraction = contract(grid, Hourglass(clusters=196, temperature=1e4), 14)
    torch.testing.assert_close(contraction.clusters, grid, rtol=0, atol=1e-4)
    torch.testing.assert_close(contraction.expand(contraction.clusters), grid, rtol=0, atol=1e-4)


def test_clusters_that_no_block_has_changed_give_the_tokens_back() -> None:
    grid = tokens(20, 33)
    contraction = contract(grid, Hourglass(clusters=25), 14)
    torch.testing.assert_close(contraction.expand(contraction.clusters), grid, rtol=0, atol=1e-4)
    blurred = contract(grid, Hourglass(clusters=25, keep_detail=False), 14)
    assert (blurred.expand(blurred.clusters) - grid).square().mean() > 0.1


def test_details_change_as_clusters_do() -> None:
    grid = tokens(28, 28)
    mirrored = grid * torch.tensor([1.0, -1.0] * 6)
    error = {}
    for keep_detail in (False, True):
        contraction = contract(grid, Hourglass(clusters=81, keep_detail=keep_detail), 14)
        refined = contraction.clusters * torch.tensor([1.0, -1.0] * 6)
        error[keep_detail] = (contraction.expand(refined) - mirrored).square().mean()
    assert error[True] < 0.5 * error[False]


@pytest.mark.parametrize("keep_detail", [False, True])
def test_tokens_may_be_rebuilt_as_what_a_projection_makes_of_them(keep_detail: bool) -> None:
    grid, outward = tokens(20, 33), torch.randn(7, 12, generator=torch.Generator().manual_seed(1))
    contraction = contract(grid, Hourglass(clusters=81, keep_detail=keep_detail), 14)
    refined = contraction.clusters
    expected = contraction.expand(refined) @ outward.T
    torch.testing.assert_close(contraction.expand(refined, outward), expected, rtol=0, atol=1e-4)
    # Details of three times the clusters are three times as large, up to what one step misses.
    tripled = contraction.expand(3 * refined, outward)
    assert (tripled - 3 * expected).norm() < 0.2 * (3 * expected).norm()


def test_a_flat_picture_stays_flat() -> None:
    grid = torch.ones(1, 28, 28, 12)
    contraction = contract(grid, Hourglass(), 14)
    torch.testing.assert_close(contraction.expand(contraction.clusters * 3), grid * 3)


@pytest.mark.parametrize("scale", [128.0, 2.0**-7])  # powers of two: rounding is the same
def test_scale_free(scale: float) -> None:
    grid = tokens(28, 30)
    plain, scaled = (contract(t, Hourglass(), 14) for t in (grid, grid * scale))
    torch.testing.assert_close(scaled.clusters / scale, plain.clusters, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        scaled.expand(scaled.clusters) / scale, plain.expand(plain.clusters), rtol=1e-3, atol=1e-3
    )


def test_an_image_does_not_depend_on_its_batch() -> None:
    grid = tokens(28, 20)
    grid[1] *= 50
    together = contract(grid, Hourglass(), 14)
    for i in range(2):
        alone = contract(grid[i : i + 1], Hourglass(), 14)
        scale = grid[i].abs().max()
        torch.testing.assert_close(
            together.clusters[i : i + 1], alone.clusters, rtol=0, atol=1e-5 * scale
        )


def test_constant_tokens_stay_what_they_are() -> None:
    grid = torch.full((1, 14, 14, 4), 3.0)
    contraction = contract(grid, Hourglass(), 14)
    torch.testing.assert_close(contraction.expand(contraction.clusters), grid)


def test_sizes_are_left_out_where_the_setting_says_so() -> None:
    assert contract(tokens(14, 14), Hourglass(size_aware=False), 14).traits.log_sizes is None


def test_values_of_clusters_are_scaled_to_the_mean_of_their_tokens() -> None:
    grid = tokens(28, 28, channels=48)
    flat = torch.nn.functional.layer_norm(grid, (48,))
    # Clusters of tokens that layer norm divides alike: what is left of them is exact.
    contraction = contract(flat, Hourglass(clusters=25, temperature=3.0), 14)
    scales = contraction.traits.value_scales
    normalised = torch.nn.functional.layer_norm(contraction.clusters, (48,))
    torch.testing.assert_close(
        normalised * scales[..., None], contraction.clusters, rtol=0, atol=1e-3
    )
    assert scales.max() < 0.8
    assert contract(grid, Hourglass(mean_values=False), 14).traits.value_scales is None


def test_a_cluster_that_every_token_has_left_scales_no_values_up() -> None:
    contraction = contract(tokens(28, 28), Hourglass(temperature=1e4), 14)
    assert contraction.traits.log_sizes.min() < -10
    assert contraction.traits.value_scales.max() <= 1


def test_a_projection_may_be_more_precise_than_the_clusters() -> None:
    contraction = contract(tokens(14, 14).bfloat16(), Hourglass(), 14)  # as under autocast
    outward = torch.randn(7, 12)
    assert contraction.expand(contraction.clusters, outward).dtype == torch.bfloat16


def test_equal_clusters_differ_from_no_neighbour_at_an_edge_either() -> None:
    assert _from_neighbors(torch.full((1, 12, 2), 7.0), (3, 4)).abs().max() < 1e-5
