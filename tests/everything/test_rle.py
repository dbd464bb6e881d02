from __future__ import annotations

import json

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from expedit_sam.everything import rle

masks = hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@given(masks)
def test_masks_survive_every_encoding(mask: np.ndarray) -> None:
    encoded = rle.encode_masks(torch.as_tensor(mask)[None])[0]
    assert rle.area(encoded) == mask.sum()
    np.testing.assert_array_equal(rle.decode_mask(encoded), mask)
    text = json.loads(json.dumps(rle.to_coco(encoded)))
    np.testing.assert_array_equal(coco.decode(text), mask)
    assert rle.to_coco(text) == text
    runs = json.loads(json.dumps(rle.to_uncompressed(encoded)))
    assert sum(runs["counts"]) == mask.size
    assert sum(runs["counts"][1::2]) == mask.sum()
    np.testing.assert_array_equal(rle.decode_mask(runs), mask)
    assert rle.area(runs) == mask.sum()
    assert rle.to_coco(runs) == text
