from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from expedit_sam.errors import InputError
from expedit_sam.model.sam import Sam
from expedit_sam.predictor import SamPredictor
from expedit_sam.transforms import ResizeLongestSide
from tests.conftest import golden_file, golden_sam


@pytest.fixture
def predictor(tiny_sam: Sam, photo: np.ndarray) -> SamPredictor:
    predictor = SamPredictor(tiny_sam)
    predictor.set_image(photo)
    return predictor


@pytest.mark.parametrize("name", ["even", "padded"])
def test_predictions_match_the_original(name: str) -> None:
    golden = golden_file(f"predictor_{name}")
    predictor = SamPredictor(golden_sam(name))
    predictor.set_image(golden["image"].numpy())
    embedding, expected = predictor.get_image_embedding(), golden["image_embedding"]
    torch.testing.assert_close(embedding, expected, rtol=0, atol=1e-4 * expected.abs().max())

    points, labels, box = (golden[key].numpy() for key in ("points", "labels", "box"))
    prompts = {
        "one_point": {"point_coords": points[:1], "point_labels": labels[:1]},
        "box": {"box": box},
        "points_box": {
            "point_coords": points,
            "point_labels": labels,
            "box": box,
            "multimask_output": False,
        },
        "points_mask": {
            "point_coords": points[:2],
            "point_labels": labels[:2],
            "mask_input": golden["one_point.low_res"][:1].numpy(),
        },
    }
    for prompt, arguments in prompts.items():
        _, iou, logits = predictor.predict(**arguments)
        # These networks amplify rounding: the original itself moves by up to 5e-4 of the largest
        # logit (6e-3 for points_mask) between two machines.
        tolerance = 1e-2 if prompt == "points_mask" else 1e-3
        for result, expected in (
            (logits, golden[f"{prompt}.low_res"]),
            (iou, golden[f"{prompt}.iou"]),
        ):
            worst = np.abs(result - expected.numpy()).max()
            assert worst <= tolerance * expected.abs().max(), prompt
        expected_masks = golden[f"{prompt}.low_res"].numpy() > 0
        assert (expected_masks == (logits > 0)).mean() > 0.999


def test_masks_have_the_size_of_the_image(predictor: SamPredictor, photo: np.ndarray) -> None:
    masks, iou, logits = predictor.predict(np.array([[100, 60]]), np.array([1]))
    assert (masks.shape, masks.dtype) == ((3, *photo.shape[:2]), bool)
    assert iou.shape == (3,)
    assert logits.shape == (3, 80, 80)
    masks, iou, logits = predictor.predict(box=np.array([10, 10, 90, 90]), multimask_output=False)
    assert (len(masks), len(iou), len(logits)) == (1, 1, 1)
    soft, _, _ = predictor.predict(box=np.array([10, 10, 90, 90]), return_logits=True)
    assert soft.dtype == np.float32


def test_every_kind_of_prompt_changes_the_masks(predictor: SamPredictor) -> None:
    point, label = np.array([[100, 60]]), np.array([1])
    _, _, logits = predictor.predict(point, label)
    results = [
        logits,
        predictor.predict(point, 1 - label)[2],
        predictor.predict(box=np.array([10, 10, 90, 90]))[2],
        predictor.predict(point, label, box=np.array([10, 10, 90, 90]))[2],
        predictor.predict(point, label, mask_input=logits[:1])[2],
        predictor.predict(mask_input=logits[:1])[2],
        predictor.predict()[2],
    ]
    for i, first in enumerate(results):
        assert all(np.abs(first - second).max() > 1e-4 for second in results[i + 1 :])


def test_channel_order(tiny_sam: Sam, photo: np.ndarray) -> None:
    predictor = SamPredictor(tiny_sam)
    predictor.set_image(photo)
    embedding = predictor.get_image_embedding()
    predictor.set_image(photo[..., ::-1], image_format="BGR")
    assert torch.equal(predictor.get_image_embedding(), embedding)


def test_torch_image_is_the_same_image(tiny_sam: Sam, photo: np.ndarray) -> None:
    predictor = SamPredictor(tiny_sam)
    predictor.set_image(photo)
    embedding = predictor.get_image_embedding()
    pixels = torch.as_tensor(predictor.transform.apply_image(photo)).permute(2, 0, 1)[None]
    predictor.set_torch_image(pixels, photo.shape[:2])
    assert torch.equal(predictor.get_image_embedding(), embedding)
    for other in (pixels[..., :100], pixels[:0], pixels[:, :, :0]):
        with pytest.raises(InputError, match="must be 1x3xHxW with longest side 320"):
            predictor.set_torch_image(other, photo.shape[:2])


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (3, 2)])
def test_images_of_extreme_shape(tiny_sam: Sam, shape: tuple[int, int]) -> None:
    predictor = SamPredictor(tiny_sam)
    predictor.set_image(np.full((*shape, 3), 90, np.uint8))
    masks, _, _ = predictor.predict(np.array([[0, 0]]), np.array([1]))
    assert masks.shape == (3, *shape)


def test_nothing_works_before_an_image_is_set(tiny_sam: Sam, predictor: SamPredictor) -> None:
    fresh = SamPredictor(tiny_sam)
    with pytest.raises(RuntimeError, match="call set_image"):
        fresh.predict(np.array([[1, 1]]), np.array([1]))
    with pytest.raises(RuntimeError, match="call set_image"):
        fresh.get_image_embedding()
    predictor.reset_image()
    with pytest.raises(RuntimeError, match="call set_image"):
        predictor.predict_torch(None, None)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("RGB", (4, 4)), "image is a Image; .*np.asarray"),
        ([[1, 2, 3]], "image is a list"),
        (None, "image is a NoneType"),
        (np.zeros((4, 4), np.uint8), r"shape \(4, 4\); it must be HxWx3"),
        (np.zeros((4, 4, 4), np.uint8), r"shape \(4, 4, 4\); it must be HxWx3"),
        (np.zeros((3, 4, 4), np.uint8), r"it must be HxWx3"),
        (np.full((4, 4, 3), np.nan), "type float64; it must be uint8"),
        (np.zeros((4, 4, 3), np.uint16), "type uint16; it must be uint8"),
        (np.zeros((0, 4, 3), np.uint8), "it has no pixels"),
    ],
)
def test_what_is_no_image_is_refused(tiny_sam: Sam, image: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SamPredictor(tiny_sam).set_image(image)  # type: ignore[arg-type]


def test_unknown_channel_order_is_refused(tiny_sam: Sam, photo: np.ndarray) -> None:
    with pytest.raises(InputError, match="'HSV'; it must be 'RGB' or 'BGR'"):
        SamPredictor(tiny_sam).set_image(photo, image_format="HSV")


POINT, LABEL = np.array([[10.0, 10.0]]), np.array([1])


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"point_coords": POINT}, "without point_labels"),
        ({"point_labels": LABEL}, "without point_coords"),
        ({"point_coords": POINT, "point_labels": np.array([1, 0])}, r"shape \(2,\) for 1 points"),
        ({"point_coords": POINT, "point_labels": np.array([2])}, "must be 1 .* or 0"),
        ({"point_coords": POINT[0], "point_labels": LABEL}, r"shape \(2,\); they must be Nx2"),
        ({"point_coords": np.zeros((0, 2)), "point_labels": np.zeros(0)}, "N at least 1"),
        ({"point_coords": np.array([[np.nan, 1]]), "point_labels": LABEL}, "NaN or infinite"),
        ({"point_coords": "here", "point_labels": LABEL}, "must be an array of numbers"),
        ({"box": np.array([1, 2, 3])}, "it must be .x0, y0, x1, y1."),
        ({"box": np.zeros((2, 4))}, "use predict_torch"),
        ({"box": np.array([0, 0, np.inf, 9])}, "NaN or infinite"),
        ({"mask_input": np.zeros((1, 7, 7))}, r"must be \(1, 80, 80\)"),
        ({"mask_input": np.full((1, 80, 80), np.nan)}, "NaN or infinite"),
    ],
)
def test_what_is_no_prompt_is_refused(predictor: SamPredictor, prompt: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        predictor.predict(**prompt)
    assert "\n" not in str(error.value)


def test_prompts_outside_the_image_are_warned_of(predictor: SamPredictor) -> None:
    with pytest.warns(UserWarning, match="outside the 221x150 image"):
        predictor.predict(np.array([[500, 10]]), 1 - LABEL)
    with pytest.warns(UserWarning, match="box reach"):
        predictor.predict(box=np.array([-5, 0, 20, 20]))
    with pytest.warns(UserWarning, match="x0<=x1"):
        predictor.predict(box=np.array([50, 2, 3, 40]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictor.predict(np.array([[221, 150]]), LABEL)
        predictor.predict(box=np.array([3, 2, 3, 2]))


@pytest.mark.parametrize("at_once", [1, 2])
def test_many_images_are_as_each_alone(tiny_sam, photo, monkeypatch, at_once) -> None:
    monkeypatch.setattr(SamPredictor, "images_at_once", at_once)
    images = [photo, photo[:90], photo[:, :70]]
    point, label = np.array([[30, 40]]), np.array([1])
    many, one = SamPredictor(tiny_sam), SamPredictor(tiny_sam)
    for image, expected in zip(many.set_images(iter(images)), images, strict=True):
        assert image is expected
        one.set_image(image)
        masks, scores, logits = many.predict(point, label)
        own_masks, own_scores, own_logits = one.predict(point, label)
        assert masks.shape == own_masks.shape == (3, *image.shape[:2])
        np.testing.assert_allclose(scores, own_scores, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(logits, own_logits, rtol=1e-4, atol=1e-4)


def test_a_bad_image_among_many_is_named_when_its_turn_comes(tiny_sam, photo) -> None:
    images = SamPredictor(tiny_sam).set_images([photo, photo[..., 0]])
    assert next(images) is photo
    with pytest.raises(InputError, match="it must be HxWx3"):
        next(images)


@torch.no_grad()
def test_a_decoder_that_learns_is_not_answered_from_memory(predictor: SamPredictor) -> None:
    prompt = {"point_coords": np.array([[20, 20]]), "point_labels": np.array([1])}
    before = predictor.predict(**prompt)[2]
    for weight in predictor.model.mask_decoder.parameters():
        weight.mul_(1.1)
    after = predictor.predict(**prompt)[2]
    assert not np.allclose(before, after)
    fresh = SamPredictor(predictor.model)
    fresh.set_features(predictor.features, predictor.input_size, predictor.original_size)
    np.testing.assert_array_equal(after, fresh.predict(**prompt)[2])


def test_autocast_after_a_click_without(predictor: SamPredictor) -> None:
    coords, labels = torch.tensor([[[20.0, 20.0]]]), torch.ones(1, 1)
    expected = predictor.predict_torch(coords, labels)[1]
    with torch.autocast("cpu", torch.bfloat16):
        iou = predictor.predict_torch(coords, labels)[1].float()
    torch.testing.assert_close(iou, expected, rtol=0, atol=0.1 * expected.abs().max().item())


def test_a_wrapped_decoder_is_called(predictor: SamPredictor) -> None:
    class Wrapper(nn.Module):
        def __init__(self, decoder: nn.Module) -> None:
            super().__init__()
            self.decoder = decoder

        def forward(self, **given: object) -> object:
            return self.decoder(**given)

    prompt = {"point_coords": np.array([[20, 20]]), "point_labels": np.array([1])}
    expected, points = predictor.predict(**prompt), np.array([[20.0, 20.0], [5.0, 9.0]])
    confident = predictor.ask_each(points, expected[1].min() - 1e-3)
    predictor.model.mask_decoder = Wrapper(predictor.model.mask_decoder)
    for result, known in zip(predictor.predict(**prompt), expected, strict=True):
        np.testing.assert_allclose(result, known, atol=1e-3)
    again = predictor.ask_each(points, expected[1].min() - 1e-3)
    for result, known in zip(again[1:], confident[1:], strict=True):
        np.testing.assert_allclose(result, known, atol=1e-3)
    assert again[0].shape == confident[0].shape


def test_no_points_beside_a_box_are_a_box_alone(predictor: SamPredictor) -> None:
    box = np.array([5, 5, 40, 30])
    expected = predictor.predict(box=box)[2]
    given = predictor.predict(np.zeros((0, 2)), np.zeros(0), box=box)[2]
    np.testing.assert_array_equal(given, expected)


def test_labels_may_be_booleans(predictor: SamPredictor) -> None:
    coords = torch.tensor([[[20.0, 20.0]]])
    expected = predictor.predict_torch(coords, torch.ones(1, 1))[2]
    torch.testing.assert_close(predictor.predict_torch(coords, torch.tensor([[True]]))[2], expected)


@pytest.mark.parametrize("how", ["network", "autocast"])
def test_reduced_precision_gives_arrays(tiny_sam: Sam, photo: np.ndarray, how: str) -> None:
    prompt = {"point_coords": np.array([[20, 20]]), "point_labels": np.array([1])}
    predictor = SamPredictor(tiny_sam.bfloat16() if how == "network" else tiny_sam)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        predictor.set_image(photo)
        masks, scores, logits = predictor.predict(**prompt)
        with_logits = predictor.predict(**prompt, return_logits=True)[0]
        asked = predictor.ask_each(np.array([[20.0, 20.0]]), -np.inf)
    assert masks.dtype == bool
    assert {x.dtype for x in (scores, logits, with_logits, *asked[:2])} == {np.dtype(np.float32)}
    assert np.isfinite(logits).all()


def test_an_image_is_forgotten_once_another_is_encoded(
    tiny_sam: Sam, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    clicks: list[int] = []

    class Clicked(SamPredictor):
        def reset_image(self) -> None:
            super().reset_image()
            clicks.clear()

    predictor = Clicked(tiny_sam)
    predictor.set_image(photo)
    clicks.append(1)
    with pytest.raises(InputError):
        predictor.set_image(photo[..., 0])
    assert clicks
    predictor.get_image_embedding()
    predictor.set_image(photo)
    assert not clicks
    monkeypatch.setattr(tiny_sam.image_encoder, "forward", no_memory)
    with pytest.raises(MemoryError):
        predictor.set_image(photo)
    with pytest.raises(RuntimeError, match="no image is set"):
        predictor.predict(box=np.array([5, 5, 40, 30]))


def no_memory(pixels: torch.Tensor) -> None:
    raise MemoryError


def test_a_prompt_encoder_of_ones_own(predictor: SamPredictor) -> None:
    class Own(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner, self.get_dense_pe = inner, inner.get_dense_pe

        def forward(self, **given: object) -> object:
            return self.inner(**given)

    points, box = np.array([[20.0, 20.0]]), np.array([5, 5, 40, 30])
    low_res = predictor.predict(box=box, multimask_output=False)[2]
    expected = predictor.predict(box=box, mask_input=low_res)[2]
    asked = predictor.ask_each(points, -np.inf)[0]
    predictor.model.prompt_encoder = Own(predictor.model.prompt_encoder)
    other = SamPredictor(predictor.model)
    other.set_features(predictor.features, predictor.input_size, predictor.original_size)
    np.testing.assert_array_equal(other.predict(box=box, mask_input=low_res)[2], expected)
    np.testing.assert_array_equal(other.ask_each(points, -np.inf)[0], asked)


def test_a_network_that_changes_its_image_format(tiny_sam: Sam, photo: np.ndarray) -> None:
    class Built(SamPredictor):
        def __init__(self, sam: Sam) -> None:  # as the original's, not calling ours
            self.model, self.transform = sam, ResizeLongestSide(sam.image_encoder.img_size)
            self.reset_image()

    for kind in (SamPredictor, Built):
        tiny_sam.image_format = "RGB"
        predictor = kind(tiny_sam)
        predictor.set_image(photo)
        expected = predictor.get_image_embedding()
        tiny_sam.image_format = "BGR"
        predictor.set_image(photo, "BGR")
        assert torch.equal(predictor.get_image_embedding(), expected)
