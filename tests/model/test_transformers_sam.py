"""expedite on transformers' SamModel."""

from __future__ import annotations

import copy
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from expedit_sam.errors import InputError
from expedit_sam.model.expedite import expedite
from expedit_sam.model.sam import Sam
from expedit_sam.weights.transformers_format import _config, to_transformers


@pytest.fixture(scope="module")
def transformers() -> ModuleType:
    return pytest.importorskip("transformers")


def as_transformers_has_it(sam: Sam) -> Any:
    import transformers

    model = transformers.SamModel(transformers.SamConfig(**_config(sam))).eval()
    model.load_state_dict(to_transformers(sam.state_dict()))
    return model


@pytest.fixture
def theirs(transformers: ModuleType, tiny_sam: Sam) -> Any:
    return as_transformers_has_it(tiny_sam)


@torch.no_grad()
def test_embeddings_are_those_of_our_network(theirs: Any, tiny_sam: Sam) -> None:
    keys = list(theirs.state_dict())
    places = [parameter.data_ptr() for parameter in theirs.parameters()]
    pixels = torch.randn(2, 3, 320, 320)
    exact = theirs.get_image_embeddings(pixels)
    assert expedite(theirs, "fast") is theirs
    expected = expedite(tiny_sam, "fast").image_encoder(pixels)
    torch.testing.assert_close(theirs.get_image_embeddings(pixels), expected)
    assert not torch.allclose(theirs.get_image_embeddings(pixels), exact, atol=1e-3)
    copied = copy.deepcopy(theirs).get_image_embeddings(pixels)
    torch.testing.assert_close(copied, expected)
    assert list(theirs.state_dict()) == keys
    assert [parameter.data_ptr() for parameter in theirs.parameters()] == places  # shared
    expedite(theirs, "exact")
    quick = theirs.get_image_embeddings(pixels)
    assert torch.equal(quick, expedite(tiny_sam, None).image_encoder(pixels))
    torch.testing.assert_close(quick, exact, rtol=1e-4, atol=1e-4 * exact.abs().max().item())
    expedite(theirs, None)
    assert torch.equal(theirs.get_image_embeddings(pixels), exact)


@torch.no_grad()
def test_processor_and_outputs_keep_working(
    theirs: Any, transformers: ModuleType, photo: np.ndarray
) -> None:
    processor = transformers.SamProcessor(
        transformers.SamImageProcessor(
            size={"longest_edge": 320},
            mask_size={"longest_edge": 80},
            pad_size={"height": 320, "width": 320},
            mask_pad_size={"height": 80, "width": 80},
        )
    )
    inputs = processor(photo, input_points=[[[50.0, 60.0]]], return_tensors="pt")
    exact = theirs(**inputs)
    found = expedite(theirs, "balanced")(**inputs)
    assert type(found) is type(exact)
    assert found.pred_masks.shape == exact.pred_masks.shape
    assert not torch.equal(found.pred_masks, exact.pred_masks)
    (masks,) = processor.post_process_masks(
        found.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"]
    )
    assert masks.shape == (1, 3, 150, 221)
    assert theirs.vision_encoder(inputs["pixel_values"], return_dict=False)[0].shape[1] == 32
    theirs.vision_encoder.config.return_dict = False
    (embedding,) = theirs.vision_encoder(inputs["pixel_values"])
    assert embedding.shape[1] == 32


def test_what_clusters_do_not_have_is_refused(theirs: Any) -> None:
    expedite(theirs, "fast")
    pixels = torch.zeros(1, 3, 320, 320)
    with pytest.raises(InputError, match="no output_hidden_states: expedite"):
        theirs.vision_encoder(pixels, output_hidden_states=True)
    with pytest.raises(ValueError, match="pixel_values"):
        theirs.vision_encoder()
    with pytest.raises(InputError, match="cannot expedite"):
        expedite(theirs.mask_decoder, "fast")


@torch.no_grad()
@pytest.mark.parametrize("part", ["layers.1", "layers.0.attn", ""])
def test_a_forward_that_would_not_be_called_is_refused(theirs: Any, part: str) -> None:
    """As accelerate puts it around modules whose weights it keeps elsewhere."""
    pixels = torch.zeros(1, 3, 320, 320)
    module = theirs.vision_encoder.get_submodule(part)
    usual = module.forward
    module.forward = lambda *args, **kwargs: usual(*args, **kwargs)
    with pytest.raises(InputError, match="forward of its own"):
        expedite(theirs, "exact")
    expedite(theirs, None)
    assert "forward" in vars(module)  # not ours to take off
    del module.forward
    expedite(theirs, "exact")
    ours = module.forward
    module.forward = lambda *args, **kwargs: ours(*args, **kwargs)
    if part:
        with pytest.raises(InputError, match="forward of its own"):
            theirs.get_image_embeddings(pixels)
    else:
        with pytest.raises(InputError, match="forward of its own"):
            expedite(theirs, None)
