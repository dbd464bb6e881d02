"""The fork's image encoder against the published method's own numbers."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from segment_anything.modeling import HourglassImageEncoderViT
from tests.conftest import GOLDEN, golden_file

META = json.loads((GOLDEN / "meta.json").read_text())["sam_even"]
ENCODER = {
    "img_size": META["img"],
    "patch_size": META["patch_size"],
    "embed_dim": META["dim"],
    "depth": META["depth"],
    "num_heads": META["heads"],
    "out_chans": META["pd"],
    "norm_layer": partial(nn.LayerNorm, eps=1e-6),
    "use_rel_pos": True,
    "window_size": META["window_size"],
    "global_attn_indexes": META["glob"],
}


def published(setting: dict) -> dict:
    return {
        "hourglass_clustering_location": setting["location"],
        "hourglass_num_cluster": setting["num_clusters"],
        "hourglass_cluster_iters": setting["iterations"],
        "hourglass_temperture": setting["temperature"],
        "hourglass_cluster_window_size": setting["neighborhood"],
        "hourglass_reconstruction_k": setting["reconstruction_k"],
    }


def encoder(**hourglass_args: object) -> HourglassImageEncoderViT:
    made = HourglassImageEncoderViT(**ENCODER, **hourglass_args)
    prefix = "image_encoder."
    weights = golden_file("sam_even").items()
    made.load_state_dict({k[len(prefix) :]: v for k, v in weights if k.startswith(prefix)})
    return made.eval()


def close(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("setting", META["hourglass"], ids=lambda setting: setting["name"])
@pytest.mark.parametrize("later", [False, True])
def test_outputs_are_the_published_ones(setting: dict, later: bool) -> None:
    golden = golden_file("encoder_even")
    if later:
        made = encoder()
        made.load_hourglass_args(**published(setting))
    else:
        made = encoder(**published(setting))
    with torch.no_grad():
        close(made(golden["pixels"]), golden[setting["name"]])


def test_without_a_location_it_is_exact() -> None:
    golden = golden_file("encoder_even")
    with torch.no_grad():
        close(encoder()(golden["pixels"]), golden["exact"])
