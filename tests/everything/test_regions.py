from __future__ import annotations

import tracemalloc

import numpy as np

from expedit_sam.everything.mask_data import MaskData
from expedit_sam.everything.regions import clear_small_regions
from expedit_sam.everything.rle import decode_mask, encode_masks


def test_one_mask_at_a_time_is_in_memory() -> None:
    side, count = 500, 200
    rles, boxes = [], []
    for first in range(count):
        mask = np.zeros((1, side, side), bool)
        mask[0, first : first + 300, :300] = True
        mask[0, first + 100, 100] = first % 2  # every second mask has a hole
        rles += encode_masks(mask)
        boxes.append([0, first, 299, first + 299])
    data = MaskData(rles=rles, boxes=np.array(boxes))
    tracemalloc.start()
    clear_small_regions(data, min_area=10, nms_thresh=1.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(data["rles"]) == count
    assert all(decode_mask(encoded).sum() == 300 * 300 for encoded in data["rles"])
    assert peak < side * side * count / 4
