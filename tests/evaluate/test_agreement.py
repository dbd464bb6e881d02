from __future__ import annotations

import numpy as np

from expedit_sam.evaluate.agreement import agreement, drawn_picture
from expedit_sam.model.expedite import expedite
from expedit_sam.model.sam import Sam
from expedit_sam.predictor import SamPredictor
from tests.export.conftest import small_sam


def test_a_network_agrees_with_itself_alone(tiny_sam: Sam, photo: np.ndarray) -> None:
    predictor = SamPredictor(tiny_sam)
    assert agreement(predictor, SamPredictor(tiny_sam), [photo, photo], points_per_side=2) == 1
    other = SamPredictor(expedite(small_sam(seed=3), "fast"))
    assert 0 <= agreement(predictor, other, [photo], points_per_side=2) < 1


def test_the_drawing_is_the_same_at_every_call() -> None:
    picture = drawn_picture()
    assert picture.shape == (480, 640, 3)
    assert picture.dtype == np.uint8
    assert picture.std() > 20
    np.testing.assert_array_equal(picture, drawn_picture())
