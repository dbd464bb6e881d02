from __future__ import annotations

import numpy as np
import pytest

from expedit_sam.errors import InputError
from expedit_sam.evaluate.baselines import find_baselines
from expedit_sam.evaluate.contestants import Prompts
from expedit_sam.evaluate.metrics import iou
from expedit_sam.everything.rle import decode_mask

CLICK = Prompts(np.array([[[90.0, 65.0]]]), np.array([[1]]))


@pytest.fixture
def rectangle(photo: np.ndarray) -> np.ndarray:
    """The mask of the photo's red rectangle."""
    mask = np.zeros(photo.shape[:2], bool)
    mask[40:90, 60:120] = True
    return mask


def test_grabcut_in_a_box(photo: np.ndarray, rectangle: np.ndarray) -> None:
    (grabcut,) = find_baselines(["grabcut"])
    grabcut.set_image(photo)
    answer = grabcut.ask(Prompts(boxes=np.array([[50.0, 30, 130, 100], [0, 0, 220, 149]])))
    assert iou(answer.chosen[0], rectangle) > 0.95
    assert answer.chosen[1].all()  # there is no background to learn from


def test_grabcut_under_a_click(photo: np.ndarray, rectangle: np.ndarray) -> None:
    (grabcut,) = find_baselines(["grabcut"])
    grabcut.set_image(photo)
    first, again = grabcut.ask(CLICK), grabcut.ask(CLICK)
    assert iou(first.chosen[0], rectangle) > 0.95
    np.testing.assert_array_equal(first.chosen, again.chosen)


def test_felzenszwalb(photo: np.ndarray, rectangle: np.ndarray) -> None:
    (felzenszwalb,) = find_baselines(["felzenszwalb"])
    felzenszwalb.set_image(photo)
    assert iou(felzenszwalb.ask(CLICK).chosen[0], rectangle) > 0.9
    whole = np.sum([decode_mask(segment) for segment in felzenszwalb.everything(photo)], axis=0)
    assert (whole == 1).all()


def test_slic(photo: np.ndarray, rectangle: np.ndarray) -> None:
    (slic,) = find_baselines(["slic"])
    slic.set_image(photo)
    (segment,) = slic.ask(CLICK).chosen
    assert segment[65, 90]
    assert (segment & rectangle).sum() / segment.sum() > 0.9


def test_unknown() -> None:
    expected = "no baseline is called 'magic': choose one of grabcut, slic"
    with pytest.raises(InputError, match=expected):
        find_baselines(["magic"])
