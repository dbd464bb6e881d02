"""Networks that are mapped, differentiated forwards or without numbers: as the original's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, jvp, stack_module_state, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

import segment_anything
from tests.original import original_modules

Results = list[Tensor]


def ensemble(encoder: nn.Module, pixels: Tensor) -> Results:
    parameters, buffers = stack_module_state([encoder, encoder])
    call = lambda *state: functional_call(encoder, state, (pixels,))  # noqa: E731
    return [vmap(call)(parameters, buffers)]


def forward_differentiated(encoder: nn.Module, pixels: Tensor) -> Results:
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(pixels, torch.ones_like(pixels))
        return list(forward_ad.unpack_dual(encoder(dual)))


ENCODER: dict[str, Callable[[nn.Module, Tensor], Results]] = {
    "vmap": lambda encoder, pixels: [vmap(lambda x: encoder(x[None])[0])(pixels)],
    "ensemble": ensemble,
    "jvp": lambda encoder, pixels: list(jvp(encoder, (pixels,), (torch.ones_like(pixels),))),
    "dual numbers": forward_differentiated,
}


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("how", ENCODER)
def test_encoder(pair: tuple[Any, Any], how: str, grad: bool) -> None:
    pixels = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.set_grad_enabled(grad):
        expected, found = (ENCODER[how](sam.image_encoder, pixels) for sam in pair)
    close(found, expected)


def decoders() -> list[nn.Module]:
    """The original's and ours, as wide as SAM's: then prompts share an image."""
    found = []
    for modeling in (original_modules()["modeling"], segment_anything.modeling):
        torch.manual_seed(0)
        transformer = modeling.TwoWayTransformer(2, 256, 8, 64)
        found.append(modeling.MaskDecoder(transformer_dim=256, transformer=transformer))
    found[1].load_state_dict(found[0].state_dict())
    return found


DECODER: dict[str, Callable[[Callable[[Tensor], Any], Tensor], Results]] = {
    "vmap": lambda decode, images: list(vmap(decode)(images)),
    "jvp": lambda decode, images: [
        x for pair in jvp(decode, (images[0],), (images[1],)) for x in pair
    ],
}


@pytest.mark.usefixtures("original")
@pytest.mark.parametrize("how", DECODER)
@torch.no_grad()
def test_decoder(how: str) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 1, 256, 6, 6, generator=generator)
    positions = torch.randn(1, 256, 6, 6, generator=generator)
    sparse = torch.randn(4, 2, 256, generator=generator)
    dense = torch.zeros(1, 256, 1, 1).expand(4, 256, 6, 6)
    results = []
    for decoder in decoders():

        def decode(image: Tensor, decoder: nn.Module = decoder) -> Any:
            return decoder(
                image_embeddings=image,
                image_pe=positions,
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=True,
            )

        with sdpa_kernel(SDPBackend.MATH):
            results.append(DECODER[how](decode, images))
    close(results[1], results[0])


def test_shapes_alone(pair: tuple[Any, Any]) -> None:
    ours = copy.deepcopy(pair[1]).to("meta")
    embedding = ours.image_encoder(torch.zeros(1, 3, 128, 128, device="meta"))
    boxes = torch.zeros(2, 4, device="meta")
    sparse, dense = ours.prompt_encoder(points=None, boxes=boxes, masks=None)
    with torch.no_grad():
        logits, iou = ours.mask_decoder(
            embedding, ours.prompt_encoder.get_dense_pe(), sparse, dense, True
        )
    masks = ours.postprocess_masks(logits, (96, 128), (90, 120))
    assert (masks.shape, iou.shape) == ((2, 3, 90, 120), (2, 3))


def close(found: Results, expected: Results) -> None:
    for mine, other in zip(found, expected, strict=True):
        assert mine.shape == other.shape
        assert (mine - other).abs().max() <= 1e-4 * other.abs().max()
