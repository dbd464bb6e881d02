from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from expedit_sam import SamPredictor, build_sam
from expedit_sam.errors import InputError
from expedit_sam.export.write import export_sam
from expedit_sam.images import read_image
from expedit_sam.model import int8
from expedit_sam.model.block import Block
from expedit_sam.model.int8 import Int8Linear, quantize
from expedit_sam.model.sam import Sam
from expedit_sam.model.untouched import are_untouched
from expedit_sam.weights.transformers_format import save_transformers


@pytest.fixture(autouse=True, scope="module")
def small_layers_run_anywhere() -> Iterator[None]:
    """Without VNNI products are as exact, and those of small layers do not take long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8, "has_integer_products", lambda: True)
        yield


def a_layer(inputs: int = 24, outputs: int = 10, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, bias=bias)


def layers_of(encoder: nn.Module) -> set[type]:
    blocks = encoder.get_submodule("blocks").modules()
    return {type(part) for part in blocks if hasattr(part, "bias") and hasattr(part, "weight")}


@given(st.integers(0, 99), st.integers(-20, 20), st.booleans())
def test_a_layer_is_off_by_half_a_step_of_each_number_at_most(
    seed: int, exponent: int, bias: bool
) -> None:
    layer = a_layer(bias=bias)
    x = torch.randn(7, 24, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    size, weight = x.abs(), layer.weight.detach().abs()
    x_step, weight_step = (n.amax(dim=1, keepdim=True) / 254 for n in (size, weight))
    bound = size.sum(1, keepdim=True) * weight_step.T + x_step * weight.sum(1)
    bound += 24 * x_step * weight_step.T
    with torch.no_grad():
        error = (Int8Linear(layer)(x) - layer(x)).abs()
    assert (error <= 1.001 * bound + 1e-6).all()


@torch.no_grad()
def test_each_token_has_a_scale_of_its_own() -> None:
    layer = Int8Linear(a_layer())
    small, large = torch.randn(1, 24), 1e4 * torch.randn(1, 24)
    together = layer(torch.cat([small, large]))
    torch.testing.assert_close(together, torch.cat([layer(small), layer(large)]), rtol=0, atol=0)


@torch.no_grad()
def test_a_layer_takes_any_shape_and_keeps_the_type() -> None:
    layer = Int8Linear(a_layer())
    x = torch.randn(2, 3, 5, 24)
    torch.testing.assert_close(layer(x)[1, 2, 4], layer(x[1, 2, 4:5])[0], rtol=0, atol=0)
    assert layer(x.bfloat16()).dtype == torch.bfloat16


@torch.no_grad()
def test_sums_may_be_larger_than_half_precision_holds() -> None:
    layer = Int8Linear(a_layer(inputs=2000))
    x = torch.cat([torch.randn(3, 2000), torch.zeros(1, 2000)])
    expected, found = layer(x), layer.half()(x.half())
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), expected, rtol=0.01, atol=0.01)


@torch.no_grad()
def test_zeros_give_the_bias_and_nan_stays_nan() -> None:
    layer = Int8Linear(a_layer())
    assert torch.equal(layer(torch.zeros(1, 24))[0], layer.bias)
    assert layer(torch.full((1, 24), torch.nan)).isnan().all()


@torch.no_grad()
def test_weights_of_a_float_layer_are_rounded_when_they_are_loaded() -> None:
    layer, x = a_layer(), torch.randn(3, 24)
    expected = Int8Linear(layer)(x)
    weights = nn.Sequential(layer).state_dict()
    loading = nn.Sequential(Int8Linear(nn.Linear(24, 10)))
    loading.load_state_dict(weights)
    assert torch.equal(loading(x), expected)
    assert list(weights) == ["0.weight", "0.bias"]
    loading.load_state_dict(nn.Sequential(Int8Linear(nn.Linear(24, 10))).state_dict())
    assert not torch.equal(loading(x), expected)
    loading.load_state_dict({name: weight.half() for name, weight in weights.items()})
    torch.testing.assert_close(loading(x), expected, rtol=0, atol=0.02)
    with pytest.raises(RuntimeError, match="size mismatch for 0"):
        loading.load_state_dict(nn.Sequential(nn.Linear(23, 10)).state_dict())


@pytest.mark.parametrize("hourglass", [None, "balanced"])
@torch.no_grad()
def test_an_encoder_is_close_to_float32(tiny_sam: Sam, hourglass: str | None) -> None:
    encoder = tiny_sam.image_encoder
    encoder.hourglass = hourglass
    pixels = torch.randn(2, 3, 320, 320)
    expected = encoder(pixels)
    memory = sum(w.nbytes for w in encoder.blocks.state_dict().values())
    quantize(encoder)
    assert layers_of(encoder) == {nn.LayerNorm, Int8Linear}
    assert 0 < (encoder(pixels) - expected).norm() < 0.1 * expected.norm()
    assert sum(w.nbytes for w in encoder.blocks.state_dict().values()) < 0.4 * memory


def test_blocks_keep_the_fast_way(tiny_sam: Sam) -> None:
    quantize(tiny_sam.image_encoder)
    blocks = tiny_sam.image_encoder.blocks
    assert all(isinstance(block, Block) and are_untouched(block) for block in blocks)


def test_nothing_is_learned_through_it(tiny_sam: Sam) -> None:
    encoder = tiny_sam.image_encoder
    quantize(encoder)
    pixels = torch.randn(1, 3, 320, 320)
    assert not encoder(pixels).requires_grad
    with pytest.raises(InputError, match="an int8 encoder has no gradients"):
        encoder(pixels.requires_grad_())
    with pytest.raises(InputError, match="an int8 encoder has no gradients"):
        torch.func.jvp(encoder, (pixels.detach(),), (torch.ones_like(pixels),))


def test_it_is_not_converted(tiny_sam: Sam, tmp_path: Path) -> None:
    quantize(tiny_sam.image_encoder)
    with pytest.raises(InputError, match="build it in float32"):
        export_sam(tiny_sam, tmp_path / "out", model="vit_s")
    with pytest.raises(InputError, match="build it in float32"):
        save_transformers(tiny_sam, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not int8.has_integer_products(), reason="needs a CPU with AVX-512 VNNI")
def test_masks_of_the_embedded_model_stay() -> None:
    coffee = read_image(Path(__file__).parents[2] / "docs" / "images" / "coffee.jpg")
    masks = []
    for precision in ("float32", "int8"):
        predictor = SamPredictor(build_sam(precision=precision))
        predictor.set_image(coffee)
        found, _, _ = predictor.predict(box=np.array([140, 40, 470, 330]), multimask_output=False)
        masks.append(found[0])
    exact, rounded = masks
    assert (exact & rounded).sum() > 0.98 * (exact | rounded).sum()


def test_a_cpu_without_integer_products_is_refused(
    tiny_sam: Sam, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "has_integer_products", lambda: False)
    with pytest.raises(InputError, match="int8 needs a CPU with AVX-512 VNNI instructions"):
        quantize(tiny_sam.image_encoder)
    assert layers_of(tiny_sam.image_encoder) == {nn.LayerNorm, nn.Linear}


def test_a_layer_that_is_sent_to_such_a_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = pickle.dumps(Int8Linear(a_layer()))
    monkeypatch.setattr(int8, "has_integer_products", lambda: False)
    with pytest.raises(InputError, match="int8 needs a CPU with AVX-512 VNNI instructions"):
        pickle.loads(sent)
