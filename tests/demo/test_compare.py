from __future__ import annotations

import numpy as np

from expedit_sam.demo.compare import ONLY_FIRST, ONLY_SECOND, difference
from expedit_sam.evaluate.metrics import iou


def test_iou_and_difference(photo: np.ndarray) -> None:
    first, second = np.zeros((2, *photo.shape[:2]), bool)
    first[10:30, 10:30] = True
    second[10:30, 20:40] = True
    assert iou(first, second) == 200 / 600
    assert iou(first, first) == 1
    assert iou(first & ~first, first & ~first) == 1
    drawn = difference(photo, first, second)
    assert drawn.shape == photo.shape
    assert tuple(drawn[15, 12]) == ONLY_FIRST
    assert tuple(drawn[15, 38]) == ONLY_SECOND
    assert len(set(drawn[15, 25])) == 1
    assert drawn[100, 100].min() >= 190
