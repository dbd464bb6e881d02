"""SamPredictor and Sam against the original's, with prompts of every kind."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from segment_anything import SamPredictor

POINTS = {"point_coords": np.array([[30, 40], [80.5, 20]]), "point_labels": np.array([1, 0])}
POINT = {"point_coords": np.array([[60, 45]]), "point_labels": np.array([1])}
BOX = {"box": np.array([10, 15, 90, 70])}
PROMPTS = {
    "point": POINT,
    "points": POINTS,
    "box": BOX,
    "mask": {},
    "point and box": POINT | BOX,
    "points and box": POINTS | BOX,
    "points and mask": POINTS,
    "box and mask": BOX,
    "all": POINTS | BOX,
    "nothing": {},
}


@pytest.fixture(scope="module")
def predictors(
    original: ModuleType, pair: tuple[nn.Module, nn.Module], image: np.ndarray
) -> tuple[object, SamPredictor]:
    both = original.SamPredictor(pair[0]), SamPredictor(pair[1])
    for predictor in both:
        predictor.set_image(image)
    return both


def close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    if found.dtype == bool:
        assert (found != expected).mean() < 1e-3
    else:
        assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_embedding_equals_original(predictors: tuple) -> None:
    close(*(predictor.get_image_embedding().numpy() for predictor in predictors[::-1]))
    assert predictors[1].original_size == predictors[0].original_size == (90, 120)
    assert predictors[1].input_size == predictors[0].input_size


@pytest.mark.parametrize("kind", PROMPTS)
@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("logits", [False, True])
def test_prediction_equals_original(
    predictors: tuple, kind: str, multimask: bool, logits: bool
) -> None:
    prompt = dict(PROMPTS[kind])
    if "mask" in kind or kind == "all":
        prompt["mask_input"] = np.random.default_rng(1).normal(0, 5, (1, 32, 32))
    expected, found = (
        predictor.predict(**prompt, multimask_output=multimask, return_logits=logits)
        for predictor in predictors
    )
    for a, b in zip(found, expected, strict=True):
        close(a, b)
    assert len(found[0]) == (3 if multimask else 1)


def test_batches_of_prompts_equal_original(predictors: tuple) -> None:
    generator = torch.Generator().manual_seed(3)
    points = torch.rand(5, 2, 2, generator=generator) * 100
    labels = torch.tensor([[1, 0], [1, 1], [0, -1], [1, -1], [0, 0]])
    boxes = torch.cat([points[:, 0] / 2, points[:, 1] / 2 + 50], dim=1)
    for arguments in (
        (points, labels),
        (points, labels, boxes),
        (None, None, boxes),
        (points, labels, boxes, torch.randn(5, 1, 32, 32, generator=generator)),
    ):
        expected, found = (predictor.predict_torch(*arguments) for predictor in predictors)
        for a, b in zip(found, expected, strict=True):
            close(a.numpy(), b.numpy())


def test_bgr_images_and_tensors_give_the_same_embedding(
    pair: tuple[nn.Module, nn.Module], image: np.ndarray, predictors: tuple
) -> None:
    predictor = SamPredictor(pair[1])
    predictor.set_image(image[..., ::-1], image_format="BGR")
    close(predictor.get_image_embedding().numpy(), predictors[1].get_image_embedding().numpy())
    resized = predictor.transform.apply_image(image)
    predictor.set_torch_image(torch.from_numpy(resized).permute(2, 0, 1)[None], image.shape[:2])
    close(predictor.get_image_embedding().numpy(), predictors[1].get_image_embedding().numpy())


def test_a_reset_predictor_asks_for_an_image(pair: tuple[nn.Module, nn.Module]) -> None:
    predictor = SamPredictor(pair[1])
    for ask in (predictor.predict, predictor.get_image_embedding):
        with pytest.raises(RuntimeError, match="set_image"):
            ask()


def test_whole_network_equals_original(
    pair: tuple[nn.Module, nn.Module], image: np.ndarray
) -> None:
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    batch = [
        {
            "image": pixels,
            "original_size": (180, 240),
            "point_coords": torch.tensor([[[30.0, 40]], [[50, 60]]]),
            "point_labels": torch.tensor([[1], [0]]),
        },
        {
            "image": pixels.flip(0)[:, :60],
            "original_size": (60, 120),
            "boxes": torch.tensor([[5.0, 5, 50, 50]]),
            "mask_inputs": torch.ones(1, 1, 32, 32),
        },
    ]
    for multimask in (False, True):
        expected, found = (sam(batch, multimask) for sam in pair)
        for a, b in zip(found, expected, strict=True):
            assert list(a) == list(b)
            for name in a:
                close(a[name].numpy(), b[name].numpy())


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"point_coords": np.array([[1, 2]])}, "point_labels"),
        (POINT | {"point_labels": np.array([1, 1])}, "one a point"),
        ({"box": np.array([1, 2, 3])}, "box"),
        ({"mask_input": np.zeros((1, 8, 8))}, "mask_input"),
        ({"point_coords": np.array([[np.nan, 2]]), "point_labels": np.array([1])}, "NaN"),
    ],
)
def test_bad_prompts_are_value_errors(predictors: tuple, prompt: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        predictors[1].predict(**prompt)
    assert "\n" not in str(caught.value)
