from __future__ import annotations

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import Tensor

from expedit_sam.build import build_sam
from expedit_sam.hourglass.settings import Hourglass
from expedit_sam.model.compiled import compile_encoder
from expedit_sam.model.sam import Sam


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_vit_s")
@torch.inference_mode()
def test_each_piece_of_the_encoder_is_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    # What a compiler for this machine makes of the graphs is torch's to test.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    settings = (None, Hourglass(location=1, clusters=49))
    sam = build_sam(checkpoint="random")
    side = sam.image_encoder.img_size
    plain, compiled = (
        _embeddings(network, torch.ones(1, 3, side, side), settings)
        for network in (sam, build_sam(checkpoint="random", compiled=True))
    )
    for one, other in zip(compiled, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4 * other.abs().max())


@pytest.mark.usefixtures("tiny_vit_s")
def test_a_compiled_network_is_copied_and_pickled() -> None:
    sam = build_sam(checkpoint="random", compiled=True)
    for other in (copy.deepcopy(sam), pickle.loads(pickle.dumps(sam))):
        assert other.image_encoder.steps is not None


@pytest.mark.slow
@torch.no_grad()
def test_the_encoder_is_one_graph(tiny_sam: Sam) -> None:
    pixels = torch.randn(1, 3, 320, 320)
    compiled = torch.compile(tiny_sam.image_encoder, fullgraph=True, backend="eager")
    expected = tiny_sam.image_encoder(pixels)
    torch.testing.assert_close(compiled(pixels), expected, rtol=0, atol=1e-4 * expected.abs().max())


def _embeddings(sam: Sam, pixels: Tensor, settings: tuple[Hourglass | None, ...]) -> list[Tensor]:
    results = []
    for sam.image_encoder.hourglass in settings:
        results.append(sam.image_encoder(pixels))
    return results


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@torch.inference_mode()
def test_on_a_gpu(tiny_sam: Sam) -> None:
    sam, pixels = tiny_sam.to("cuda"), torch.randn(2, 3, 320, 320, device="cuda")
    settings = (None, Hourglass(location=1, clusters=49))
    plain = _embeddings(sam, pixels, settings)
    compile_encoder(sam.image_encoder)
    for one, other in zip(_embeddings(sam, pixels, settings), plain, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3 * other.abs().max())
