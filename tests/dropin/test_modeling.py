"""The parts of the network, by the original's names, against the original's."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from segment_anything.modeling import (
    common,
    image_encoder,
    mask_decoder,
    prompt_encoder,
    transformer,
)
from tests.dropin.conftest import stir
from tests.original import original_modules

pytestmark = pytest.mark.usefixtures("original")
OURS = {
    "common": common,
    "image_encoder": image_encoder,
    "mask_decoder": mask_decoder,
    "prompt_encoder": prompt_encoder,
    "transformer": transformer,
}


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    assert (a - b).abs().max() <= tolerance * max(1.0, b.abs().max().item())


def twins(module: str, name: str, *args: object, **kwargs: object) -> tuple[nn.Module, nn.Module]:
    """The original's layer and ours, with its weights."""
    theirs = getattr(original_modules()[f"modeling.{module}"], name)(*args, **kwargs).eval()
    stir(theirs)
    mine = getattr(OURS[module], name)(*args, **kwargs).eval()
    mine.load_state_dict(theirs.state_dict(), strict=True)
    return theirs, mine


LAYERS = [
    ("common", "LayerNorm2d", (6,), {}, [(2, 6, 5, 4)]),
    ("common", "MLPBlock", (8, 12), {"act": nn.ReLU}, [(2, 3, 8)]),
    ("image_encoder", "PatchEmbed", ((4, 4), (4, 4), (1, 1), 3, 8), {}, [(2, 3, 14, 14)]),
    ("image_encoder", "Attention", (8, 2), {}, [(2, 5, 4, 8)]),
    (
        "image_encoder",
        "Attention",
        (8,),
        {"num_heads": 2, "qkv_bias": False, "use_rel_pos": True, "input_size": (5, 4)},
        [(2, 5, 4, 8)],
    ),
    (
        "image_encoder",
        "Block",
        (8, 2),
        {"use_rel_pos": True, "window_size": 3, "input_size": (7, 5)},
        [(2, 7, 5, 8)],
    ),
    ("image_encoder", "Block", (8, 2), {"use_rel_pos": True, "input_size": (7, 5)}, [(1, 7, 5, 8)]),
    ("mask_decoder", "MLP", (8, 12, 5, 3), {"sigmoid_output": True}, [(4, 8)]),
    ("transformer", "Attention", (8, 2, 2), {}, [(2, 5, 8), (2, 7, 8), (2, 7, 8)]),
    (
        "transformer",
        "TwoWayAttentionBlock",
        (8, 2, 12),
        {"skip_first_layer_pe": True},
        [(2, 5, 8), (2, 6, 8), (2, 5, 8), (2, 6, 8)],
    ),
    (
        "transformer",
        "TwoWayAttentionBlock",
        (8, 2, 12),
        {"activation": nn.GELU},
        [(2, 5, 8), (2, 6, 8), (2, 5, 8), (2, 6, 8)],
    ),
    (
        "transformer",
        "TwoWayTransformer",
        (2, 8, 2, 12),
        {},
        [(3, 8, 4, 5), (3, 8, 4, 5), (3, 6, 8)],
    ),
]


@pytest.mark.parametrize(("module", "name", "args", "kwargs", "shapes"), LAYERS)
def test_layer_equals_original(
    original: ModuleType, module: str, name: str, args: tuple, kwargs: dict, shapes: list
) -> None:
    torch.manual_seed(1)
    theirs, mine = twins(module, name, *args, **kwargs)
    inputs = [torch.randn(shape) for shape in shapes]
    with torch.no_grad():
        expected, found = theirs(*inputs), mine(*inputs)
    for a, b in (
        zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]
    ):
        close(a, b)


def test_position_embedding_equals_original(original: ModuleType) -> None:
    theirs, mine = twins("prompt_encoder", "PositionEmbeddingRandom", 6, 2.0)
    close(mine((4, 7)), theirs((4, 7)))
    points = torch.rand(2, 3, 2) * 50
    close(mine.forward_with_coords(points, (40, 50)), theirs.forward_with_coords(points, (40, 50)))


def test_image_encoder_equals_original(pair: tuple[nn.Module, nn.Module]) -> None:
    theirs, mine = pair
    pixels = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        close(mine.image_encoder(pixels), theirs.image_encoder(pixels))


def test_mask_decoder_gives_all_four_masks_as_the_original(
    pair: tuple[nn.Module, nn.Module],
) -> None:
    torch.manual_seed(2)
    inputs = {
        "image_embeddings": torch.randn(1, 32, 8, 8),
        "image_pe": pair[1].prompt_encoder.get_dense_pe(),
        "sparse_prompt_embeddings": torch.randn(3, 2, 32),
        "dense_prompt_embeddings": torch.randn(3, 32, 8, 8),
    }
    with torch.no_grad():
        expected = pair[0].mask_decoder.predict_masks(**inputs)
        for a, b in zip(pair[1].mask_decoder.predict_masks(**inputs), expected, strict=True):
            close(a, b)


@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 5))
@settings(max_examples=40)
def test_windows_equal_original(batch: int, height: int, width: int, window: int) -> None:
    theirs = original_modules()["modeling.image_encoder"]
    x = torch.randn(batch, height, width, 2)
    windows, padded = image_encoder.window_partition(x, window)
    expected, expected_padded = theirs.window_partition(x, window)
    assert padded == expected_padded
    assert torch.equal(windows, expected)
    back = image_encoder.window_unpartition(windows, window, padded, (height, width))
    assert torch.equal(back, x)


@given(st.integers(1, 6), st.integers(1, 3), st.booleans(), st.integers(1, 9))
@settings(max_examples=40)
def test_relative_positions_equal_original(
    coarse: int, factor: int, finer_keys: bool, trained: int
) -> None:
    theirs = original_modules()["modeling.image_encoder"]
    table = torch.randn(2 * trained - 1, 3)
    q, k = (coarse, coarse * factor) if finer_keys else (coarse * factor, coarse)
    close(image_encoder.get_rel_pos(q, k, table), theirs.get_rel_pos(q, k, table))


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
@settings(max_examples=20)
def test_decomposed_positions_equal_original(height: int, width: int, factor: int) -> None:
    theirs = original_modules()["modeling.image_encoder"]
    queries, keys = (height, width), (height * factor, width * factor)
    arguments = (
        torch.randn(2, height * width, keys[0] * keys[1]),
        torch.randn(2, height * width, 6),
        torch.randn(2 * height - 1, 6),
        torch.randn(2 * width - 1, 6),
        queries,
        keys,
    )
    found = image_encoder.add_decomposed_rel_pos(*arguments)
    close(found, theirs.add_decomposed_rel_pos(*arguments))
