from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from expedit_sam.transforms import ResizeLongestSide, upscale_logits, upscale_masks

sizes = st.tuples(st.integers(1, 6000), st.integers(1, 6000))


@given(sizes, st.integers(16, 1024))
def test_the_longest_side_gets_the_target_length(size: tuple[int, int], target: int) -> None:
    height, width = ResizeLongestSide.get_preprocess_shape(*size, target)
    assert max(height, width) == target
    assert min(height, width) >= 1
    assert abs(height * size[1] - width * size[0]) <= max(size) * max(1, target / max(size)) * 1.01


@given(sizes, st.floats(0, 1), st.floats(0, 1))
def test_points_and_boxes_keep_their_place(size: tuple[int, int], x: float, y: float) -> None:
    transform = ResizeLongestSide(1024)
    height, width = transform.get_preprocess_shape(*size, 1024)
    point = np.array([[x * size[1], y * size[0]]])
    scaled = transform.apply_coords(point, size)
    np.testing.assert_allclose(scaled, [[x * width, y * height]], rtol=1e-9, atol=1e-9)
    box = np.concatenate([point, point], axis=1)
    np.testing.assert_allclose(transform.apply_boxes(box, size), np.tile(scaled, (1, 2)))
    torch.testing.assert_close(
        transform.apply_coords_torch(torch.as_tensor(point), size),
        torch.as_tensor(scaled).float(),
    )
    torch.testing.assert_close(
        transform.apply_boxes_torch(torch.as_tensor(box), size),
        torch.as_tensor(np.tile(scaled, (1, 2))).float(),
    )


def test_the_points_given_are_left_as_they_were() -> None:
    point = np.array([[10, 20]])
    ResizeLongestSide(1024).apply_coords(point, (100, 100))
    assert point.tolist() == [[10, 20]]


def test_images_are_resized_with_antialiasing(photo: np.ndarray) -> None:
    transform = ResizeLongestSide(100)
    small = transform.apply_image(photo)
    assert (small.shape, small.dtype) == ((68, 100, 3), np.uint8)
    as_torch = transform.apply_image_torch(torch.as_tensor(photo).permute(2, 0, 1)[None].float())
    difference = as_torch[0].permute(1, 2, 0).numpy() - small
    assert np.abs(difference).max() < 1.0


@settings(max_examples=40)
@given(
    low=st.integers(2, 40),
    inside=st.tuples(st.integers(1, 160), st.integers(1, 160)),
    original=st.tuples(st.integers(1, 400), st.integers(1, 400)),
)
def test_upscaling_equals_two_bilinear_scalings(
    low: int, inside: tuple[int, int], original: tuple[int, int]
) -> None:
    logits = torch.randn(2, 1, low, low, generator=torch.Generator().manual_seed(0))
    square = F.interpolate(logits, (160, 160), mode="bilinear", align_corners=False)
    cut = square[..., : inside[0], : inside[1]]
    expected = F.interpolate(cut, original, mode="bilinear", align_corners=False)
    upscaled = upscale_logits(logits.numpy(), 160, inside, original)
    np.testing.assert_allclose(upscaled, expected.numpy(), rtol=1e-4, atol=2e-4)
    masks = upscale_masks(logits.numpy(), 160, inside, original, 0.2)
    np.testing.assert_array_equal(masks, upscaled > np.float32(0.2))
