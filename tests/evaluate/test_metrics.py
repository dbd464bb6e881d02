from __future__ import annotations

import numpy as np
import pytest
import torch

from expedit_sam.evaluate.metrics import best_overlaps, boundary_f, iou, mean_over_images
from expedit_sam.everything.rle import encode_masks


def square(left: int, side: int = 40) -> np.ndarray:
    mask = np.zeros((100, 120), bool)
    mask[30 : 30 + side, left : left + side] = True
    return mask


def test_iou() -> None:
    empty = np.zeros((100, 120), bool)
    masks = np.stack([square(20), square(40), square(80), empty])
    np.testing.assert_allclose(iou(masks, square(20)[None]), [1, 1 / 3, 0, 0])
    assert iou(empty, empty) == 1


def test_boundary_f() -> None:
    empty = np.zeros((100, 120), bool)
    assert boundary_f(square(20), square(20)) == 1
    assert boundary_f(square(20), square(21)) == 1  # within the tolerance, 2 pixels here
    assert boundary_f(square(20), square(70)) == 0
    assert boundary_f(square(20), empty) == 0
    assert boundary_f(empty, empty) == 1
    # Half of two of the four sides agree, and what is near their ends.
    assert 0.25 < boundary_f(square(20), square(40)) < 0.35


def test_the_edge_of_the_image_is_no_outline() -> None:
    assert boundary_f(np.ones((100, 120), bool), np.zeros((100, 120), bool)) == 1
    left, right = np.zeros((2, 100, 120), bool)
    left[:, :60], right[:, 60:] = True, True
    assert boundary_f(left, right) == 1


def test_best_overlaps() -> None:
    truth = encode_masks(torch.from_numpy(np.stack([square(20), square(70)])))
    masks = encode_masks(torch.from_numpy(np.stack([square(40), square(20, side=20)])))
    np.testing.assert_allclose(best_overlaps(truth, masks), [1 / 3, 10 / 70], rtol=1e-6)
    assert best_overlaps(truth, []).tolist() == [0, 0]
    assert best_overlaps([], masks).tolist() == []


def test_the_mean_counts_every_region_and_the_interval_draws_images() -> None:
    random = np.random.default_rng(0)
    values = [random.normal(0.6, 0.1, size=n).tolist() for n in random.integers(1, 30, size=50)]
    mean = mean_over_images(values, seed=1)
    everything = np.concatenate(values)
    assert mean.value == pytest.approx(everything.mean())
    error = everything.std() / np.sqrt(len(everything))
    assert mean.low == pytest.approx(mean.value - 2 * error, abs=error)
    assert mean.high == pytest.approx(mean.value + 2 * error, abs=error)
    assert mean == mean_over_images(values, seed=1)


def test_regions_of_one_image_are_not_independent() -> None:
    """The same values a hundred times in an image say no more about other images."""
    once = mean_over_images([[0.2], [0.4], [0.9]], seed=0)
    often = mean_over_images([[0.2] * 100, [0.4] * 100, [0.9] * 100], seed=0)
    assert (often.low, often.high) == pytest.approx((once.low, once.high))


def test_images_without_regions_do_not_count() -> None:
    mean = mean_over_images([[0.5], [], []], seed=0)
    assert (mean.value, mean.low, mean.high) == (0.5, 0.5, 0.5)
