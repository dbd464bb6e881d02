from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch

from expedit_sam.build import build_sam
from expedit_sam.model.sam import Sam
from expedit_sam.weights.read import read_weights
from expedit_sam.weights.transformers_format import (
    from_transformers,
    is_transformers,
    save_transformers,
    to_transformers,
)


def test_names_go_there_and_back(tiny_sam: Sam) -> None:
    ours = tiny_sam.state_dict()
    theirs = to_transformers(ours)
    assert is_transformers(theirs)
    assert not is_transformers(ours)
    back = from_transformers(theirs)
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[name], ours[name]) for name in ours)


@pytest.mark.usefixtures("tiny_vit_s")
def test_a_saved_network_is_built_again(tiny_sam: Sam, tmp_path: Path) -> None:
    written = save_transformers(tiny_sam, tmp_path / "my_sam")
    assert [path.name for path in written] == ["config.json", "model.safetensors"]
    assert len({path.stat().st_mode for path in written}) == 1  # whoever reads one reads the other
    for checkpoint in (tmp_path / "my_sam", tmp_path / "my_sam" / "model.safetensors"):
        again = build_sam("vit_s", checkpoint=checkpoint).state_dict()
        assert all(torch.equal(again[name], value) for name, value in tiny_sam.state_dict().items())


@torch.no_grad()
def test_transformers_reads_and_writes_the_same(tiny_sam: Sam, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    save_transformers(tiny_sam, tmp_path / "ours")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = transformers.SamModel.from_pretrained(tmp_path / "ours").eval()
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["model_type"] == "sam"
    pixels = torch.randn(1, 3, 320, 320)
    expected = tiny_sam.image_encoder(pixels)
    torch.testing.assert_close(
        theirs.get_image_embeddings(pixels), expected, rtol=1e-4, atol=1e-4 * expected.abs().max()
    )
    points = torch.tensor([[[30.0, 40.0]]])
    sparse, dense = tiny_sam.prompt_encoder((points, torch.ones(1, 1)), None, None)
    logits, _ = tiny_sam.mask_decoder(
        expected, tiny_sam.prompt_encoder.get_dense_pe(), sparse, dense, True
    )
    found = theirs(
        image_embeddings=expected, input_points=points[None], input_labels=torch.ones(1, 1, 1).int()
    ).pred_masks[:, 0]
    torch.testing.assert_close(found, logits, rtol=1e-3, atol=1e-3 * logits.abs().max().item())

    theirs.save_pretrained(tmp_path / "theirs")
    again = read_weights(tmp_path / "theirs")
    ours = tiny_sam.state_dict()
    assert again.keys() == ours.keys()
    assert all(torch.equal(again[name], ours[name]) for name in ours)
