from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco
from skimage.color import rgb2lab

from expedit_sam.draw import binary_mask, colors, draw_prompts, overlay
from expedit_sam.errors import InputError


@pytest.fixture
def disc() -> np.ndarray:
    y, x = np.mgrid[:60, :80]
    return (x - 40) ** 2 + (y - 30) ** 2 < 20**2


@pytest.fixture
def grey() -> np.ndarray:
    return np.full((60, 80, 3), 128, np.uint8)


def encoded(mask: np.ndarray) -> dict:
    return coco.encode(np.asfortranarray(mask.astype(np.uint8)))


def uncompressed(mask: np.ndarray) -> dict:
    pixels = mask.T.ravel()
    changes = np.flatnonzero(np.diff(pixels)) + 1
    counts = np.diff(changes, prepend=0, append=pixels.size).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if pixels[0] else counts}


def test_nothing_is_drawn_without_masks(grey: np.ndarray) -> None:
    np.testing.assert_array_equal(overlay(grey, []), grey)


def test_inside_is_tinted_and_outside_is_not(grey: np.ndarray, disc: np.ndarray) -> None:
    before = grey.copy()
    picture = overlay(grey, [disc])
    assert picture.shape == grey.shape
    assert picture.dtype == np.uint8
    np.testing.assert_allclose(picture[30, 40], (128 + colors(1)[0].astype(int)) / 2, atol=1)
    np.testing.assert_array_equal(picture[:8], grey[:8])
    np.testing.assert_array_equal(grey, before)


def test_opacity(grey: np.ndarray, disc: np.ndarray) -> None:
    np.testing.assert_array_equal(overlay(grey, [disc], opacity=1)[30, 40], colors(1)[0])
    np.testing.assert_array_equal(overlay(grey, [disc], opacity=0)[30, 40], grey[30, 40])


def test_outline_follows_the_edge(grey: np.ndarray, disc: np.ndarray) -> None:
    picture = overlay(grey, [disc], opacity=0)
    changed = (picture != grey).any(axis=2)
    y, x = np.nonzero(changed)
    radius = np.hypot(x - 40, y - 30)
    assert changed.any()
    assert (abs(radius - 19.5) < 2.5).all()


def test_holes_are_outlined_and_not_filled(grey: np.ndarray, disc: np.ndarray) -> None:
    ring = disc.copy()
    ring[25:36, 35:46] = False
    picture = overlay(grey, [ring])
    np.testing.assert_array_equal(picture[30, 40], grey[30, 40])
    assert (overlay(grey, [ring], opacity=0)[24, 40] != grey[24, 40]).any()


def test_small_masks_lie_above_large_ones_in_any_order(grey: np.ndarray, disc: np.ndarray) -> None:
    everything = np.ones_like(disc)
    for masks in ([everything, disc], [disc, everything]):
        own = colors(2)[[mask is disc for mask in masks].index(True)]
        np.testing.assert_array_equal(overlay(grey, masks, opacity=1)[30, 40], own)


@pytest.mark.parametrize("inverted", [False, True])
def test_every_form_of_a_mask_gives_the_same_picture(
    grey: np.ndarray, disc: np.ndarray, inverted: bool
) -> None:
    mask = disc ^ inverted
    expected = overlay(grey, [mask])
    text = encoded(mask) | {"counts": encoded(mask)["counts"].decode()}
    for form in (encoded(mask), text, uncompressed(mask), mask.astype(np.uint8)):
        np.testing.assert_array_equal(overlay(grey, [form]), expected)
        np.testing.assert_array_equal(overlay(grey, [{"segmentation": form}]), expected)
        np.testing.assert_array_equal(binary_mask(form), mask, strict=True)


def test_an_empty_mask_draws_nothing(grey: np.ndarray) -> None:
    np.testing.assert_array_equal(overlay(grey, [np.zeros((60, 80), bool)]), grey)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (3, 2)])
def test_images_of_any_size(size: tuple[int, int]) -> None:
    image = np.zeros((*size, 3), np.uint8)
    picture = overlay(image, [np.ones(size, bool)])
    assert picture.shape == image.shape
    assert picture.any()


def test_mask_of_another_image(grey: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"mask 0 has shape \(5, 5\)"):
        overlay(grey, [np.ones((5, 5), bool)])


def test_colors_are_far_apart() -> None:
    lab = rgb2lab(colors(24)[None])[0]
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 1000 * np.eye(24)
    assert distance.min() > 9  # 2.3 is just noticeable


@given(st.integers(0, 100), st.integers(0, 100))
def test_colors_stay_when_there_are_more(few: int, more: int) -> None:
    np.testing.assert_array_equal(colors(few + more)[:few], colors(few))
    assert colors(few).shape == (few, 3)


def test_prompts_are_drawn_where_they_are(grey: np.ndarray) -> None:
    picture = draw_prompts(grey, [[20, 30], [60, 30]], [1, 0], box=[5, 5, 75, 55]).astype(int)
    include, exclude = picture[26, 16], picture[26, 56]
    assert include[1] > include[0]
    assert exclude[0] > exclude[1]
    assert (picture[5, 40] != grey[5, 40]).any()
    assert (picture[26, 20] == 255).all()  # the upright of the plus, which a minus has not
    assert (picture[26, 60] != 255).any()


def test_points_without_labels_are_included(grey: np.ndarray) -> None:
    expected = draw_prompts(grey, [[20, 30], [60, 30]], [1, 1])
    np.testing.assert_array_equal(draw_prompts(grey, [[20, 30], [60, 30]]), expected)


def test_no_prompts_draw_nothing(grey: np.ndarray) -> None:
    picture = draw_prompts(grey)
    np.testing.assert_array_equal(picture, grey)
    assert picture is not grey


def test_as_many_labels_as_points(grey: np.ndarray) -> None:
    with pytest.raises(ValueError, match="shorter"):
        draw_prompts(grey, [[1, 1], [2, 2]], [1])
