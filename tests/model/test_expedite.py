from __future__ import annotations

import copy
import pickle
import sys
from functools import partial
from types import ModuleType

import pytest
import torch
from torch import nn

from expedit_sam.errors import InputError
from expedit_sam.hourglass.settings import PRESETS, Hourglass
from expedit_sam.model.architectures import new_sam
from expedit_sam.model.expedite import expedite
from expedit_sam.model.sam import Sam
from tests.conftest import TINY
from tests.original import original_modules, own_modules


class ForeignEncoder(nn.Module):
    """An encoder of another package: SAM's attributes, a forward of its own."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.patch_embed, self.blocks, self.neck = encoder.patch_embed, encoder.blocks, encoder.neck
        self.pos_embed = encoder.pos_embed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(x) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.neck(x.permute(0, 3, 1, 2))


@torch.no_grad()
def test_ours_takes_the_setting(tiny_sam: Sam) -> None:
    assert expedite(tiny_sam, "fast") is tiny_sam
    assert tiny_sam.image_encoder.hourglass == PRESETS["fast"]
    expedite(tiny_sam.image_encoder, Hourglass(location=1))
    assert tiny_sam.image_encoder.hourglass == Hourglass(location=1)
    expedite(tiny_sam, None)
    assert tiny_sam.image_encoder.hourglass is None


@torch.no_grad()
def test_another_packages_encoder_gives_what_ours_gives(tiny_sam: Sam) -> None:
    foreign = ForeignEncoder(copy.deepcopy(tiny_sam.image_encoder))
    keys = list(foreign.state_dict())
    pixels = torch.randn(1, 3, 320, 320)
    exact = foreign(pixels)
    setting = Hourglass(location=0.5, clusters=49)
    expedite(foreign, setting)
    torch.testing.assert_close(foreign(pixels), expedite(tiny_sam, setting).image_encoder(pixels))
    assert not torch.allclose(foreign(pixels), exact, atol=1e-3)
    assert list(foreign.state_dict()) == keys
    assert torch.equal(copy.deepcopy(foreign)(pixels), foreign(pixels))
    expedite(foreign, None)
    assert torch.equal(foreign(pixels), exact)


@torch.no_grad()
def test_the_original_package(original: ModuleType) -> None:
    modeling = original.modeling
    theirs = modeling.ImageEncoderViT(
        img_size=320, embed_dim=32, depth=4, num_heads=2, out_chans=32,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True, window_size=14, global_attn_indexes=(1, 3),
    ).eval()  # fmt: skip
    ours = new_sam(TINY).image_encoder
    ours.load_state_dict(theirs.state_dict())
    pixels = torch.randn(1, 3, 320, 320)
    exact = theirs(pixels)
    torch.testing.assert_close(expedite(theirs, "fast")(pixels), expedite(ours, "fast")(pixels))
    assert not torch.allclose(theirs(pixels), exact, atol=1e-3)
    assert torch.equal(expedite(theirs, None)(pixels), exact)


def test_what_is_no_sam_is_refused(tiny_sam: Sam) -> None:
    with pytest.raises(InputError, match="cannot expedite a Linear: its Linear lacks patch_embed"):
        expedite(nn.Linear(2, 2), "fast")
    foreign = ForeignEncoder(tiny_sam.image_encoder)
    del foreign.blocks[0].attn.qkv
    with pytest.raises(InputError, match="its Attention lacks qkv"):
        expedite(foreign, "fast")
    with pytest.raises(InputError, match="beyond the last block"):
        expedite(tiny_sam, Hourglass(location=99))
    assert tiny_sam.image_encoder.hourglass is None


def test_forks_that_do_more_are_refused(tiny_sam: Sam) -> None:
    class WithIntermediates(ForeignEncoder):  # as SAM-HQ has it
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
            return super().forward(x), []

    with pytest.raises(InputError, match="WithIntermediates: it returns more than an embedding"):
        expedite(WithIntermediates(tiny_sam.image_encoder), "fast")

    adapted = ForeignEncoder(tiny_sam.image_encoder)  # as Medical-SAM-Adapter has it
    adapted.blocks[0].adapter = nn.Linear(2, 2)
    with pytest.raises(InputError, match="its Block has adapter, which SAM's has not"):
        expedite(adapted, "fast")
    del adapted.blocks[0].adapter
    assert len(expedite(adapted, "fast").blocks) == 4

    class LowRank(nn.Module):  # as micro-sam's fine-tuning has it
        def __init__(self, qkv: nn.Module) -> None:
            super().__init__()
            self.qkv = qkv

    adapted.blocks[0].attn.qkv = LowRank(adapted.blocks[0].attn.qkv)
    with pytest.raises(InputError, match="its LowRank lacks weight, bias"):
        expedite(adapted, "fast")


@torch.no_grad()
def test_exact_attention_for_another_package(tiny_sam: Sam) -> None:
    foreign = ForeignEncoder(copy.deepcopy(tiny_sam.image_encoder))
    pixels = torch.randn(1, 3, 320, 320)
    expected = foreign(pixels)
    expedite(foreign, "exact")
    assert "forward" in vars(foreign)
    assert torch.equal(foreign(pixels), expected)
    expedite(foreign, None)
    assert "forward" not in vars(foreign)


@torch.no_grad()
def test_an_expedited_model_of_another_package_is_pickled_whole(original: ModuleType) -> None:
    with own_modules("segment_anything"):
        sys.modules["segment_anything"] = original
        sys.modules["segment_anything.modeling.image_encoder"] = original_modules()[
            "modeling.image_encoder"
        ]
        sys.modules["segment_anything.modeling.common"] = original_modules()["modeling.common"]
        kind = original.modeling.ImageEncoderViT
        encoder = kind(64, embed_dim=16, depth=2, num_heads=2, out_chans=8, window_size=3)
        loaded = pickle.loads(pickle.dumps(expedite(encoder, "fast")))
        pixels = torch.randn(1, 3, 64, 64)
        assert torch.equal(loaded(pixels), encoder(pixels))
        assert loaded.hourglass == PRESETS["fast"]


def test_a_setting_that_does_not_fit_is_refused_at_once(tiny_sam: Sam) -> None:
    for model in (tiny_sam, ForeignEncoder(tiny_sam.image_encoder)):
        for setting, reason in (
            (Hourglass(clusters=225), "exceed the 196 tokens"),
            (Hourglass(location=9), "beyond the last block"),
        ):
            with pytest.raises(InputError, match=reason):
                expedite(model, setting)
    tiny_sam.image_encoder.hourglass = "balanced"
    assert tiny_sam.image_encoder.hourglass == PRESETS["balanced"]
    with pytest.raises(InputError, match="no speed setting is called 'quick'"):
        tiny_sam.image_encoder.hourglass = "quick"
