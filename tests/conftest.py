"""What many tests need: the golden files and small networks."""

from __future__ import annotations

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from safetensors.torch import load_file
from torch import nn

from expedit_sam.model.architectures import ARCHITECTURES, Architecture, new_sam
from expedit_sam.model.image_encoder import ImageEncoderViT
from expedit_sam.model.mask_decoder import MaskDecoder
from expedit_sam.model.prompt_encoder import PromptEncoder
from expedit_sam.model.sam import Sam
from expedit_sam.model.two_way_transformer import TwoWayTransformer
from tests.original import original  # noqa: F401  (a fixture)

# No test's result may depend on how busy the machine is. The whole check has the same examples
# each time; pytest alone makes up others.
settings.register_profile("untimed", deadline=None, derandomize="PYTEST_XDIST_WORKER" in os.environ)
settings.load_profile("untimed")

# What is printed depends on these, and some machines set them.
for variable in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "COLUMNS"):
    os.environ.pop(variable, None)

# For each import and conversion OpenVINO would fork this process, to tell its maker.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

# A script's background jobs ignore Ctrl+C, and so does what they start; some tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

GOLDEN = Path(__file__).parent / "golden"

# Windows, a global block, padding (20 tokens against windows of 14) and all of SAM's parts.
TINY = Architecture(
    embed_dim=32,
    depth=4,
    num_heads=2,
    global_attn_indexes=(1, 3),
    image_size=320,
    prompt_embed_dim=32,
    decoder_heads=4,
    decoder_mlp_dim=64,
    iou_head_hidden_dim=32,
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: neither of two processes is left with one at the end."""
    with_slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in with_slow)


@pytest.fixture(scope="session", autouse=True)
def _one_thread_a_worker() -> None:
    """Threads that wait for each other's turns are many times slower on a busy machine."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"  # of the commands and notebooks that tests start


@pytest.fixture(scope="session")
def golden_meta() -> dict:
    return json.loads((GOLDEN / "meta.json").read_text())


def golden_file(name: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / f"{name}.safetensors")


def golden_sam(name: str) -> Sam:
    """The small SAM that made the golden numbers called ``name``."""
    shape = json.loads((GOLDEN / "meta.json").read_text())[f"sam_{name}"]
    side = shape["img"] // shape["patch_size"]
    sam = Sam(
        ImageEncoderViT(
            img_size=shape["img"],
            patch_size=shape["patch_size"],
            embed_dim=shape["dim"],
            depth=shape["depth"],
            num_heads=shape["heads"],
            out_chans=shape["pd"],
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=shape["window_size"],
            global_attn_indexes=shape["glob"],
        ),
        PromptEncoder(shape["pd"], (side, side), (shape["img"],) * 2, shape["mask_in_chans"]),
        MaskDecoder(
            transformer_dim=shape["pd"],
            transformer=TwoWayTransformer(
                shape["decoder_depth"],
                shape["pd"],
                shape["decoder_heads"],
                shape["decoder_mlp_dim"],
            ),
            iou_head_depth=shape["iou_head_depth"],
            iou_head_hidden_dim=shape["iou_head_hidden_dim"],
        ),
    )
    sam.load_state_dict(golden_file(f"sam_{name}"))
    return sam.eval()


def randomized(sam: Sam, seed: int = 0) -> Sam:
    """The network with every parameter random, those that start at zero or one too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in sam.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            spread = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.add_(noise * spread)
    return sam


@pytest.fixture
def tiny_sam() -> Sam:
    torch.manual_seed(0)
    return randomized(new_sam(TINY))


@pytest.fixture
def tiny_vit_s(monkeypatch: pytest.MonkeyPatch) -> Architecture:
    """Makes ``vit_s`` a network of a few thousand parameters, for tests of what surrounds it."""
    monkeypatch.setitem(ARCHITECTURES, "vit_s", TINY)
    return TINY


@pytest.fixture
def photo() -> np.ndarray:
    """A 150x221 picture with edges, gradients and noise."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:150, :221]
    picture = np.stack([x, y, (x + y) // 2], axis=-1).astype(float)
    picture[40:90, 60:120] = (220, 40, 60)
    picture[(y - 100) ** 2 + (x - 170) ** 2 < 900] = (30, 200, 90)
    return (picture + generator.normal(0, 6, picture.shape)).clip(0, 255).astype(np.uint8)
