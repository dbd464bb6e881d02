from __future__ import annotations

import numpy as np

from expedit_sam.demo.clicks import Clicks
from expedit_sam.demo.masks import candidates, full_size_mask, mask_at
from expedit_sam.demo.networks import Networks


def record(mask: np.ndarray) -> dict:
    rows, columns = np.nonzero(mask)
    box = [columns.min(), rows.min(), np.ptp(columns), np.ptp(rows)]
    return {"segmentation": mask, "area": int(mask.sum()), "bbox": box}


def test_candidates_are_the_predictors_best_first(
    tiny_networks: Networks, photo: np.ndarray
) -> None:
    encoding = tiny_networks.encode("vit_s", "exact", photo)
    clicks = Clicks()
    assert candidates(encoding, clicks) is None
    clicks.add(80, 60, "include", photo.shape)
    guesses = candidates(encoding, clicks)
    masks, scores, _ = encoding.predictor.predict(np.array([[80, 60]]), np.array([1]))
    order = scores.argsort()[::-1]
    np.testing.assert_array_equal(guesses.scores, scores[order])
    np.testing.assert_array_equal(guesses.masks, masks[order])


def test_masks_in_the_pages_size_and_in_full(tiny_networks: Networks, photo: np.ndarray) -> None:
    encoding = tiny_networks.encode("vit_s", "exact", photo)
    clicks = Clicks()
    clicks.add(80, 60, "include", photo.shape)
    guesses = candidates(encoding, clicks)
    same = full_size_mask(encoding, guesses.logits[0], photo.shape[:2])
    np.testing.assert_array_equal(same, guesses.masks[0])
    double = full_size_mask(encoding, guesses.logits[0], (300, 442))
    assert double.shape == (300, 442)
    assert abs(double.mean() - same.mean()) < 0.02


def test_the_smallest_mask_lies_on_top() -> None:
    large, small = np.zeros((2, 20, 30), bool)
    large[2:18, 3:27] = True
    small[5:9, 6:12] = True
    records = [record(small), record(large)]
    assert mask_at(records, 7, 6) == 0
    assert mask_at(records, 20, 10) == 1
    assert mask_at(records, 29, 19) is None
