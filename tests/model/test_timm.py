"""expedite on timm itself, beside a stand-in for torchvision, of which it uses nothing here."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from functools import partial
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from expedit_sam.errors import InputError
from expedit_sam.model.architectures import new_sam
from expedit_sam.model.expedite import expedite
from tests.conftest import TINY, randomized
from tests.original import FOLDER, own_modules


class AnyModule(ModuleType):
    """A module in which every name is a class."""

    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "InterpolationMode":
            return Enum(name, "NEAREST NEAREST_EXACT BILINEAR BICUBIC BOX HAMMING LANCZOS")
        return type(name, (), {})


class AnyTorchvision:
    """Finds every module of torchvision."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name.split(".")[0] == "torchvision" else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return AnyModule(spec.name)

    def exec_module(self, module: ModuleType) -> None: ...


@contextmanager
def importable() -> Iterator[None]:
    finder: Any = AnyTorchvision()
    sys.path.insert(0, str(FOLDER))
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def timm() -> Iterator[ModuleType]:
    if not (FOLDER / "timm").is_dir():
        pytest.skip("timm is not here: run python tests/get_original.py")
    with own_modules("timm", "torchvision"), importable():
        yield import_module("timm")


@pytest.fixture
def theirs(timm: ModuleType) -> Any:
    """``samvit_base_patch16`` as timm makes it, but for its size."""
    torch.manual_seed(0)
    model = timm.create_model(
        "samvit_base_patch16",
        img_size=TINY.image_size,
        embed_dim=TINY.embed_dim,
        depth=TINY.depth,
        num_heads=TINY.num_heads,
        global_attn_indexes=TINY.global_attn_indexes,
        neck_chans=TINY.prompt_embed_dim,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),  # SAM's
    )
    return randomized(model).eval()


@torch.no_grad()
def test_embeddings_are_those_of_our_network(theirs: Any) -> None:
    keys = list(theirs.state_dict())
    places = [parameter.data_ptr() for parameter in theirs.parameters()]
    pixels = torch.randn(2, 3, 320, 320)
    before, logits = theirs.forward_features(pixels), theirs(pixels)
    ours = new_sam(TINY).image_encoder
    renamed = {name.replace(".fc", ".lin"): value for name, value in theirs.state_dict().items()}
    missing, _ = ours.load_state_dict(renamed, strict=False)
    assert not missing

    assert expedite(theirs, "exact") is theirs
    exact = theirs.forward_features(pixels)
    torch.testing.assert_close(exact, before, rtol=0, atol=1e-5 * before.abs().max().item())
    torch.testing.assert_close(exact, ours(pixels))

    expedite(theirs, "balanced")
    clustered = theirs.forward_features(pixels)
    torch.testing.assert_close(clustered, expedite(ours, "balanced")(pixels))
    assert not torch.allclose(clustered, before, atol=1e-3)
    assert not torch.allclose(theirs(pixels), logits, atol=1e-3)  # their head takes it
    assert torch.equal(copy.deepcopy(theirs).forward_features(pixels), clustered)

    assert list(theirs.state_dict()) == keys
    assert [parameter.data_ptr() for parameter in theirs.parameters()] == places  # shared
    expedite(theirs, None)
    assert torch.equal(theirs.forward_features(pixels), before)
    assert torch.equal(theirs(pixels), logits)


def test_variants_that_do_more_are_refused(timm: ModuleType) -> None:
    scaled = timm.create_model("samvit_base_patch16", embed_dim=24, depth=1, init_values=1e-3)
    with pytest.raises(InputError, match="its Block has ls1, ls2, which SAM's has not"):
        expedite(scaled, "fast")
    other = timm.create_model("vit_tiny_patch16_224", depth=1)
    assert isinstance(other, nn.Module)
    with pytest.raises(InputError, match="cannot expedite a VisionTransformer"):
        expedite(other, "fast")
