"""The builders: checkpoints of the original's, and the snippets that users of the fork know."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

import segment_anything
from expedit_sam import Hourglass, expedite
from expedit_sam.errors import CheckpointError
from expedit_sam.hourglass import PRESETS
from segment_anything.modeling import HourglassImageEncoderViT

NUMBERS = {"hourglass_clustering_location": 1, "hourglass_num_cluster": 4}


@pytest.fixture
def checkpoint(pair: tuple[nn.Module, nn.Module], small_models: None, tmp_path: Path) -> str:
    """What the original saves, for any of the official names."""
    path = tmp_path / "model.pth"
    torch.save(pair[0].state_dict(), path)
    return str(path)


def test_state_dicts_fit_both_ways(pair: tuple[nn.Module, nn.Module]) -> None:
    theirs, mine = (sam.state_dict() for sam in pair)
    assert list(mine) == list(theirs)
    for name, weight in theirs.items():
        assert torch.equal(mine[name], weight)
    pair[0].load_state_dict(mine, strict=True)
    pair[1].load_state_dict(theirs, strict=True)


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_full_size_networks_have_the_weights_of_the_original(
    original: ModuleType, name: str
) -> None:
    with torch.device("meta"):
        mine = segment_anything.sam_model_registry[name]().state_dict()
        theirs = original.sam_model_registry[name]().state_dict()
    assert {key: weight.shape for key, weight in mine.items()} == {
        key: weight.shape for key, weight in theirs.items()
    }


@pytest.mark.parametrize("name", ["default", "vit_h", "vit_l", "vit_b"])
def test_registry_loads_checkpoints(
    name: str, checkpoint: str, pair: tuple[nn.Module, nn.Module]
) -> None:
    sam = segment_anything.sam_model_registry[name](checkpoint=checkpoint)
    assert not sam.training
    assert sam.image_encoder.hourglass is None
    for key, weight in pair[0].state_dict().items():
        assert torch.equal(sam.state_dict()[key], weight)


def test_without_a_checkpoint_weights_are_random(small_models: None) -> None:
    torch.manual_seed(0)
    first, second = segment_anything.build_sam(), segment_anything.build_sam()
    name = "image_encoder.patch_embed.proj.weight"
    assert not torch.equal(first.state_dict()[name], second.state_dict()[name])


def test_predictor_snippet(checkpoint: str, image: np.ndarray) -> None:
    from segment_anything import SamPredictor, build_sam

    predictor = SamPredictor(build_sam(checkpoint=checkpoint, use_hourglass=True))
    predictor.set_image(image)
    masks, _, _ = predictor.predict(np.array([[60, 40]]), np.array([1]))
    assert masks.shape == (3, 90, 120)
    assert predictor.model.image_encoder.hourglass == PRESETS["balanced"]


def test_automatic_mask_generator_snippet(checkpoint: str, image: np.ndarray) -> None:
    from segment_anything import SamAutomaticMaskGenerator, build_sam

    mask_generator = SamAutomaticMaskGenerator(
        build_sam(checkpoint=checkpoint, use_hourglass=True), points_per_side=2
    )
    masks = mask_generator.generate(image)
    assert isinstance(masks, list)


def test_numbers_mean_the_published_method(checkpoint: str) -> None:
    sam = segment_anything.build_sam(checkpoint, use_hourglass=True, **NUMBERS)
    assert sam.image_encoder.hourglass == Hourglass(
        location=1,
        clusters=4,
        iterations=5,
        temperature=0.01,
        neighborhood=5,
        reconstruction_neighbors=20,
        scale_free=False,
        size_aware=False,
        keep_detail=False,
        mean_values=False,
    )


@pytest.mark.parametrize("builder", ["build_sam_vit_h", "build_sam_vit_l", "build_sam_vit_b"])
@pytest.mark.parametrize("spelling", ["hourglass_temperture", "hourglass_temperature"])
def test_every_builder_takes_every_argument(
    small_models: None, builder: str, spelling: str
) -> None:
    sam = getattr(segment_anything, builder)(
        use_hourglass=True,
        hourglass_clustering_location=2,
        hourglass_num_cluster=9,
        hourglass_cluster_iters=3,
        hourglass_cluster_window_size=3,
        hourglass_reconstruction_k=7,
        **{spelling: 0.5},
    )
    assert sam.image_encoder.hourglass == Hourglass(2, 9, 3, 0.5, 3, 7, False, False, False, False)


def test_numbers_without_use_hourglass_change_nothing(small_models: None) -> None:
    sam = segment_anything.build_sam(use_hourglass=False, **NUMBERS)
    assert sam.image_encoder.hourglass is None


def test_numbers_without_a_location_leave_clustering_off_and_say_so(small_models: None) -> None:
    with pytest.warns(UserWarning, match="hourglass_clustering_location"):
        sam = segment_anything.build_sam(use_hourglass=True, hourglass_num_cluster=81)
    assert sam.image_encoder.hourglass is None


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"hourglass_num_clusters": 81}, TypeError),
        ({"hourglass_temperture": 0.1, "hourglass_temperature": 0.1}, TypeError),
        (NUMBERS | {"hourglass_num_cluster": 80}, ValueError),
        (NUMBERS | {"hourglass_cluster_window_size": 4}, ValueError),
        ({"hourglass_clustering_location": 3}, ValueError),
        ({"hourglass_clustering_location": None}, ValueError),
        (NUMBERS | {"hourglass_num_cluster": 25}, ValueError),
    ],
)
def test_bad_arguments_are_one_line_before_a_checkpoint_is_read(
    small_models: None, arguments: dict, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        segment_anything.build_sam("missing.pth", use_hourglass=True, **arguments)
    assert not isinstance(caught.value, CheckpointError)
    assert "\n" not in str(caught.value)


def test_speed_can_be_changed_later(checkpoint: str, image: np.ndarray) -> None:
    sam = segment_anything.build_sam(checkpoint=checkpoint, use_hourglass=True)
    assert isinstance(sam.image_encoder, HourglassImageEncoderViT)
    sam.image_encoder.load_hourglass_args(**NUMBERS)
    assert sam.image_encoder.hourglass.clusters == 4
    sam.image_encoder.load_hourglass_args(hourglass_cluster_iters=2)
    assert sam.image_encoder.hourglass.clusters == 4
    assert sam.image_encoder.hourglass.iterations == 2
    sam.image_encoder.load_hourglass_args(hourglass_clustering_location=-1)
    assert sam.image_encoder.hourglass is None
    assert expedite(sam, "fast").image_encoder.hourglass == PRESETS["fast"]
    assert segment_anything.SamPredictor(sam).model is sam


def test_wrong_checkpoint_is_one_line(small_models: None, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        segment_anything.build_sam(checkpoint=str(tmp_path / "missing.pth"))
    assert "\n" not in str(caught.value)


def test_a_network_of_another_width(original: ModuleType, tmp_path: Path) -> None:
    """The private builder, which many import."""
    from segment_anything.build_sam import _build_sam

    theirs = original.build_sam.__globals__["_build_sam"](16, 2, 2, [1])
    torch.save(theirs.state_dict(), tmp_path / "own.pth")
    ours = _build_sam(16, 2, 2, [1], tmp_path / "own.pth")
    assert not ours.training
    for name, weight in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], weight)
