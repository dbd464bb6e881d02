"""utils.transforms against the original's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segment_anything.utils.transforms import ResizeLongestSide
from tests.original import original_modules

pytestmark = pytest.mark.usefixtures("original")
sides = st.integers(1, 300)


@given(sides, sides, st.integers(1, 200))
@settings(max_examples=60)
def test_images_points_and_boxes_scale_alike(height: int, width: int, target: int) -> None:
    mine, theirs = (
        cls(target)
        for cls in (ResizeLongestSide, original_modules()["utils.transforms"].ResizeLongestSide)
    )
    shape = theirs.get_preprocess_shape(height, width, target)
    # The original rounds a very flat image to no pixels at all.
    assert mine.get_preprocess_shape(height, width, target) == tuple(max(1, s) for s in shape)
    if min(shape) < 1:
        return
    rng = np.random.default_rng(height)
    image = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
    assert np.array_equal(mine.apply_image(image), theirs.apply_image(image))
    size = (height, width)
    points, boxes = rng.uniform(0, 300, (2, 3, 2)), rng.integers(0, 300, (3, 4))
    np.testing.assert_allclose(mine.apply_coords(points, size), theirs.apply_coords(points, size))
    np.testing.assert_allclose(mine.apply_boxes(boxes, size), theirs.apply_boxes(boxes, size))
    for name, values in (("apply_coords_torch", points), ("apply_boxes_torch", boxes)):
        values = torch.from_numpy(values)
        found, expected = getattr(mine, name)(values, size), getattr(theirs, name)(values, size)
        torch.testing.assert_close(found, expected)


def test_tensors_are_resized_by_their_height_and_width() -> None:
    """The original takes batch and channels for height and width, which gives unusable sizes."""
    resized = ResizeLongestSide(64).apply_image_torch(torch.rand(1, 3, 40, 80))
    assert resized.shape == (1, 3, 32, 64)
