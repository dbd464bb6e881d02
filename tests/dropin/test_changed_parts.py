"""Networks whose parts somebody changed: what the original would run is what runs here."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from types import MethodType, ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import segment_anything
from expedit_sam import expedite
from expedit_sam.errors import InputError
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from segment_anything.modeling import image_encoder
from tests.original import original_modules, own_modules

Change = Callable[[Any], object]
POINT = {"point_coords": np.array([[60, 45]]), "point_labels": np.array([1])}


@pytest.fixture
def both(pair: tuple[nn.Module, nn.Module]) -> tuple[Any, Any]:
    """The original's small network and ours, to be changed."""
    theirs, ours = copy.deepcopy(pair)
    return theirs, ours


def close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


class Wrapped(nn.Module):
    """Calls what it was given, and changes the result."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        return 0.5 * self.inner(*args, **kwargs)


class Blurred(nn.Module):
    """Mixes neighbouring tokens of what it was given."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        mixed = nn.functional.avg_pool2d(x.permute(0, 3, 1, 2), 3, stride=1, padding=1)
        return self.inner(mixed.permute(0, 2, 3, 1))


def halve(module: nn.Module) -> None:
    """Another forward pass of this one module."""
    own = type(module).forward
    module.forward = MethodType(lambda self, *args: 0.5 * own(self, *args), module)  # type: ignore


def halve_class(module: nn.Module) -> None:
    """The module becomes one of a subclass with another forward pass."""
    kind = type(module)
    forward = lambda self, *args: 0.5 * kind.forward(self, *args)  # noqa: E731
    module.__class__ = type("Half", (kind,), {"forward": forward})


def wrap(owner: Any, name: str, wrapper: type[nn.Module] = Wrapped) -> None:
    setattr(owner, name, wrapper(getattr(owner, name)))


class OnlyLinear(Tensor):
    """A weight for linear layers and nothing else, as torchao's quantized ones are."""

    @staticmethod
    def __new__(cls, weight: Tensor) -> OnlyLinear:
        return Tensor._make_wrapper_subclass(cls, weight.shape, dtype=weight.dtype)

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["weight"], None

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is nn.functional.linear:
            return func(args[0], args[1].weight, *args[2:])
        return super().__torch_function__(func, types, args, kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, *_: Any) -> Any:
        raise NotImplementedError(func)


def quantize(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            layer._parameters["weight"] = OnlyLinear(0.5 * layer.weight.detach())  # type: ignore


ENCODER_CHANGES: dict[str, Change] = {
    "block, its forward": lambda e: halve(e.blocks[0]),
    "block, its class": lambda e: halve_class(e.blocks[1]),
    "block, wrapped": lambda e: e.blocks.__setitem__(0, Wrapped(e.blocks[0])),
    "block with an adapter": lambda e: e.blocks.__setitem__(
        0, nn.Sequential(e.blocks[0], Blurred(nn.Identity()))
    ),
    "attention, its forward": lambda e: halve(e.blocks[0].attn),
    "attention, its class": lambda e: halve_class(e.blocks[1].attn),
    "attention, wrapped": lambda e: wrap(e.blocks[0], "attn"),
    "qkv, wrapped": lambda e: wrap(e.blocks[0].attn, "qkv"),
    "qkv, mixing neighbours": lambda e: wrap(e.blocks[0].attn, "qkv", Blurred),
    "qkv, its class": lambda e: halve_class(e.blocks[2].attn.qkv),
    "proj, its forward": lambda e: halve(e.blocks[2].attn.proj),
    "mlp, mixing neighbours": lambda e: wrap(e.blocks[1], "mlp", Blurred),
    "lin1, wrapped": lambda e: wrap(e.blocks[1].mlp, "lin1"),
    "norm1, wrapped": lambda e: wrap(e.blocks[0], "norm1"),
    "norm2 for nothing": lambda e: setattr(e.blocks[2], "norm2", nn.Identity()),
    "patches, wrapped": lambda e: wrap(e, "patch_embed"),
    "neck, wrapped": lambda e: wrap(e, "neck"),
    "weights, quantized": quantize,
    "attention, its scale": lambda e: setattr(e.blocks[1].attn, "scale", 1.0),
}


@pytest.mark.parametrize("change", ENCODER_CHANGES)
@torch.no_grad()
def test_encoder(both: tuple[Any, Any], change: str) -> None:
    torch.manual_seed(0)
    pixels = torch.randn(2, 3, 128, 128)
    before = both[1].image_encoder(pixels)
    for sam in both:
        ENCODER_CHANGES[change](sam.image_encoder)
    expected = both[0].image_encoder(pixels)
    close(both[1].image_encoder(pixels), expected)
    assert (before - expected).abs().max() > 1e-3 * expected.abs().max()


def test_a_class_whose_forward_was_replaced(
    both: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = torch.randn(1, 3, 128, 128)
    for module in (original_modules()["modeling.image_encoder"], image_encoder):
        forward = module.Attention.forward
        monkeypatch.setattr(
            module.Attention, "forward", lambda self, x, forward=forward: 0.5 * forward(self, x)
        )
    with torch.no_grad():
        close(both[1].image_encoder(pixels), both[0].image_encoder(pixels))


@torch.no_grad()
def test_hooks_see_what_they_would(both: tuple[Any, Any]) -> None:
    seen: tuple[list, list] = ([], [])
    for sam, places in zip(both, seen, strict=True):
        encoder = sam.image_encoder
        parts = (encoder.blocks[0], encoder.blocks[1].attn, encoder.blocks[2].mlp.lin1)
        for part in (*parts, encoder.blocks[0].attn.qkv, encoder.blocks[1].attn.qkv):
            part.register_forward_hook(
                lambda _, inputs, output, places=places: places.append((inputs[0], output))
            )
        encoder(torch.ones(1, 3, 128, 128))
    assert len(seen[0]) == 5
    for expected, found in zip(*seen, strict=True):
        for x, y in zip(found, expected, strict=True):
            close(x, y)


def test_the_hourglass_refuses_blocks_that_take_no_clusters(both: tuple[Any, Any]) -> None:
    ours = expedite(both[1], "balanced")
    halve(ours.image_encoder.blocks[2])
    with pytest.raises(InputError, match="block 2 has a forward pass of its own"):
        ours.image_encoder(torch.zeros(1, 3, 128, 128))
    expedite(ours, None).image_encoder(torch.zeros(1, 3, 128, 128))


def test_pixels_that_are_not_normalised(both: tuple[Any, Any]) -> None:
    with pytest.raises(InputError, match=r"torch\.uint8: normalise them first"):
        both[1].image_encoder(torch.zeros(1, 3, 128, 128, dtype=torch.uint8))


def test_no_images_are_refused(both: tuple[Any, Any]) -> None:
    with pytest.raises(InputError, match=r"\(0, 3, 128, 128\): give one image or more"):
        both[1].image_encoder(torch.zeros(0, 3, 128, 128))
    with pytest.raises(InputError, match="batched_input is empty"):
        both[1]([], multimask_output=True)


def negate_masks(decoder: Any, method: str) -> None:
    """A subclass's method that turns masks inside out."""
    kind = type(decoder)

    def changed(self: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        masks, iou = getattr(kind, method)(self, *args, **kwargs)
        return -masks, iou

    decoder.__class__ = type("Negating", (kind,), {method: changed})


def other_upscaling(decoder: Any) -> None:
    torch.manual_seed(1)
    channels = decoder.transformer_dim
    decoder.output_upscaling = nn.Sequential(
        nn.Upsample(scale_factor=4), nn.Conv2d(channels, channels // 8, 1)
    ).requires_grad_(False)


class TwoWay(nn.Module):
    """Somebody's own transformer."""

    def forward(self, image: Tensor, image_pe: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        keys = (image + image_pe).flatten(2).transpose(1, 2)
        return points + keys.mean(dim=1, keepdim=True), keys * points.mean(dim=1, keepdim=True)


DECODER_CHANGES: dict[str, Change] = {
    "forward": lambda d: negate_masks(d, "forward"),
    "predict_masks": lambda d: negate_masks(d, "predict_masks"),
    "transformer": lambda d: setattr(d, "transformer", TwoWay()),
    "attention, wrapped": lambda d: wrap(d.transformer.layers[0], "cross_attn_token_to_image"),
    "attention, its forward": lambda d: halve(d.transformer.final_attn_token_to_image.q_proj),
    "norm, wrapped": lambda d: wrap(d.transformer.layers[1], "norm4"),
    "mlp, its class": lambda d: halve_class(d.transformer.layers[1].mlp),
    "upscaling": other_upscaling,
    "upscaling, wrapped": lambda d: d.output_upscaling.__setitem__(
        0, Wrapped(d.output_upscaling[0])
    ),
    "scores, wrapped": lambda d: wrap(d, "iou_prediction_head"),
    "weights, quantized": quantize,
}


def layer_halves_both(layer: Any) -> None:
    kind = type(layer)

    def changed(self: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        return tuple(0.5 * x for x in kind.forward(self, *args, **kwargs))

    layer.__class__ = type("Half", (kind,), {"forward": changed})


DECODER_CHANGES["layer, its class"] = lambda d: layer_halves_both(d.transformer.layers[0])


@pytest.mark.parametrize("change", DECODER_CHANGES)
def test_decoder(
    original: ModuleType, both: tuple[Any, Any], image: np.ndarray, change: str
) -> None:
    predictors = original.SamPredictor(both[0]), SamPredictor(both[1])
    for sam, predictor in zip(both, predictors, strict=True):
        predictor.set_image(image)
        predictor.predict(**POINT)  # what was prepared for the decoder before
        DECODER_CHANGES[change](sam.mask_decoder)
    expected, found = (predictor.predict(**POINT, return_logits=True) for predictor in predictors)
    for mine, other in zip(found, expected, strict=True):
        close(torch.from_numpy(mine), torch.from_numpy(other))
    points = np.array([[60.0, 45.0], [20.0, 30.0]])
    logits, iou, numbers = predictors[1].ask_each(points, -np.inf)
    assert numbers.tolist() == [0, 0, 0, 1, 1, 1]
    close(torch.from_numpy(logits[:3]), torch.from_numpy(expected[2]))
    close(torch.from_numpy(iou[:3]), torch.from_numpy(expected[1]))


def test_hooks_in_the_decoder_see_what_they_would(
    original: ModuleType, both: tuple[Any, Any], image: np.ndarray
) -> None:
    seen: tuple[list, list] = ([], [])
    for sam, kind, shapes in zip(both, (original.SamPredictor, SamPredictor), seen, strict=True):
        decoder = sam.mask_decoder
        parts = (decoder, decoder.transformer, decoder.transformer.layers[0].norm4)
        for part in (*parts, decoder.output_upscaling, decoder.output_upscaling[1]):
            part.register_forward_hook(
                lambda _, inputs, output, shapes=shapes: shapes.append(
                    [x.shape for x in (output if isinstance(output, tuple) else (output,))]
                )
            )
        predictor = kind(sam)
        predictor.set_image(image)
        predictor.predict(**POINT)
    assert seen[1] == seen[0]
    assert len(seen[0]) == 5


FINE_TUNING: dict[str, Callable[[SamPredictor], object]] = {
    "another decoder": lambda p: setattr(
        p.model, "mask_decoder", halved(copy.deepcopy(p.model.mask_decoder))
    ),
    "another network": lambda p: setattr(
        p,
        "model",
        setattr(model := copy.deepcopy(p.model), "x", halved(model.mask_decoder)) or model,
    ),
    "weights assigned": lambda p: p.model.mask_decoder.load_state_dict(
        halved(copy.deepcopy(p.model.mask_decoder)).state_dict(), assign=True
    ),
    "a new parameter": lambda p: setattr(
        p.model.mask_decoder.mask_tokens,
        "weight",
        nn.Parameter(p.model.mask_decoder.mask_tokens.weight * 0.5),
    ),
    "an activation": lambda p: p.model.mask_decoder.output_upscaling.__setitem__(4, nn.Tanh()),
    "features": lambda p: p.features.mul_(0.5),
    "positions": lambda p: p.model.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.mul_(
        0.5
    ),
}


def halved(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(0.5)
    return module


@pytest.mark.parametrize("change", FINE_TUNING)
def test_what_was_prepared_from_an_image_follows(
    original: ModuleType, both: tuple[Any, Any], image: np.ndarray, change: str
) -> None:
    predictors: tuple[Any, Any] = original.SamPredictor(both[0]), SamPredictor(both[1])
    before = []
    for predictor in predictors:
        predictor.set_image(image)
        before.append(predictor.predict(**POINT)[2])
        FINE_TUNING[change](predictor)
    expected, found = (predictor.predict(**POINT)[2] for predictor in predictors)
    close(torch.from_numpy(found), torch.from_numpy(expected))
    assert np.abs(found - before[1]).max() > 1e-3


def test_a_network_for_images_of_another_size(
    original: ModuleType, both: tuple[Any, Any], image: np.ndarray
) -> None:
    results = []
    for sam, kind in zip(both, (original.SamPredictor, SamPredictor), strict=True):
        encoder, prompts = sam.image_encoder, sam.prompt_encoder
        encoder.img_size = 192
        encoder.pos_embed = nn.Parameter(encoder.pos_embed.detach().repeat(1, 2, 2, 1)[:, :12, :12])
        prompts.image_embedding_size, prompts.input_image_size = (12, 12), (192, 192)
        predictor = kind(sam)
        predictor.set_image(image)
        low_res = predictor.predict(**POINT, multimask_output=False)[2]
        results.append(torch.from_numpy(predictor.predict(**POINT, mask_input=low_res)[2]))
    assert results[0].shape == (3, 48, 48)
    close(results[1], results[0])


def test_one_prompt_for_many_images(both: tuple[Any, Any]) -> None:
    torch.manual_seed(0)
    embeddings = torch.randn(3, 32, 8, 8)
    logits = []
    for sam in both:
        sparse, dense = sam.prompt_encoder(points=None, boxes=None, masks=None)
        logits.append(
            sam.mask_decoder(
                image_embeddings=embeddings,
                image_pe=sam.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=True,
            )[0]
        )
    assert logits[0].shape == (3, 3, 32, 32)
    close(logits[1], logits[0])
    with torch.no_grad():
        sam = both[1]
        sparse, dense = sam.prompt_encoder(points=None, boxes=None, masks=None)
        positions = sam.prompt_encoder.get_dense_pe()
        close(sam.mask_decoder(embeddings, positions, sparse, dense, True)[0], logits[0])


def test_encoding_of_ones_own(
    original: ModuleType, both: tuple[Any, Any], image: np.ndarray
) -> None:
    """Predictors whose ``set_torch_image`` does something else, in ``predict`` and everywhere."""
    results = []
    for sam, module in zip(both, (original, segment_anything), strict=True):

        class Stored(module.SamPredictor):  # type: ignore[name-defined, misc]
            def set_torch_image(self, transformed_image: Tensor, size: tuple[int, int]) -> None:
                super().set_torch_image(transformed_image.flip(-1), size)

        predictor = Stored(sam)
        predictor.set_image(image)
        logits = torch.from_numpy(predictor.predict(**POINT)[2])
        generator = module.SamAutomaticMaskGenerator(sam, 4, **EVERYTHING)
        generator.predictor = Stored(sam)
        results.append((logits, areas(generator, image)))
    close(results[1][0], results[0][0])
    assert results[1][1] == results[0][1]
    assert results[1][1] != areas(SamAutomaticMaskGenerator(both[1], 4, **EVERYTHING), image)


EVERYTHING = {"pred_iou_thresh": -10.0, "stability_score_thresh": -1.0, "box_nms_thresh": 0.95}


def areas(generator: Any, image: np.ndarray) -> list[int]:
    return sorted(int(record["area"]) for record in generator.generate(image))


def test_masks_of_ones_own(original: ModuleType, both: tuple[Any, Any], image: np.ndarray) -> None:
    results = []
    for sam, kind in zip(both, (original.SamPredictor, SamPredictor), strict=True):
        negate_logits(sam)
        predictor = kind(sam)
        predictor.set_image(image)
        results.append(predictor.predict(**POINT)[0])
    assert (results[0] == results[1]).mean() > 0.999
    assert results[0].any()


def negate_logits(sam: Any) -> None:
    kind = type(sam)
    changed = lambda self, *args: -kind.postprocess_masks(self, *args)  # noqa: E731
    sam.__class__ = type("Negating", (kind,), {"postprocess_masks": changed})


def test_a_network_of_the_originals_in_our_predictor(
    original: ModuleType, both: tuple[Any, Any], image: np.ndarray
) -> None:
    results = []
    for kind in (original.SamPredictor, SamPredictor):
        predictor = kind(both[0])
        predictor.set_image(image)
        results.append(predictor.predict(**POINT)[0])
    assert (results[0] == results[1]).mean() > 0.999


def test_traced_masks_are_of_what_is_given(both: tuple[Any, Any]) -> None:
    sam = both[1]
    torch.manual_seed(0)
    first, second = torch.randn(2, 1, 3, 32, 32)
    traced = torch.jit.trace(lambda x: sam.postprocess_masks(x, (96, 128), (90, 120)), first)
    close(traced(second), sam.postprocess_masks(second, (96, 128), (90, 120)))


def test_a_network_that_the_original_pickled(
    original: ModuleType, both: tuple[Any, Any], tmp_path: Path
) -> None:
    with own_modules("segment_anything", "torchvision"):
        for name, module in original_modules().items():
            sys.modules[f"segment_anything.{name}".rstrip(".")] = module
        torch.save(both[0], tmp_path / "whole.pth")
    loaded = torch.load(tmp_path / "whole.pth", weights_only=False)
    assert type(loaded) is type(both[1])
    sparse, dense = loaded.prompt_encoder(points=None, boxes=torch.ones(2, 4), masks=None)
    positions = loaded.prompt_encoder.get_dense_pe()
    with torch.no_grad():
        embedding = loaded.image_encoder(torch.ones(1, 3, 128, 128))
        close(embedding, both[0].image_encoder(torch.ones(1, 3, 128, 128)))
        given = (embedding, positions, sparse, dense, True)
        close(loaded.mask_decoder(*given)[0], both[1].mask_decoder(*given)[0])
