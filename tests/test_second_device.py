"""Networks on a device other than the CPU, on machines that have none too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils import backend_registration

from expedit_sam import SamAutomaticMaskGenerator, SamPredictor, expedite
from expedit_sam.batch.task import Task
from expedit_sam.hourglass import PRESETS, Hourglass
from expedit_sam.hourglass.written import parse_setting
from expedit_sam.model.architectures import new_sam
from expedit_sam.model.sam import Sam
from tests import second_device
from tests.batch.conftest import TAKE_ALL
from tests.batch.test_stages import through
from tests.conftest import TINY, randomized
from tests.model.test_transformers_sam import as_transformers_has_it
from tests.second_device import SecondDevice

if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
    pytest.skip("this PyTorch has no backends in Python", allow_module_level=True)

PUBLISHED = parse_setting("published:location=1")


@pytest.fixture(scope="module")
def both() -> Iterator[Callable[..., tuple[Any, Any]]]:
    """What a function of the device gives on the CPU and on the second device."""
    with ProcessPoolExecutor(1, get_context("spawn"), second_device.register) as pool:

        def run(function: Callable, *given: Any) -> tuple[Any, Any]:
            work = partial(pool.submit, _in_one_thread, function, *given)
            return work("cpu").result(), work(second_device.NAME).result()

        yield run


def _in_one_thread(function: Callable, *given: Any) -> Any:
    torch.set_num_threads(1)
    return function(*given)


def _sam(device: str) -> Sam:
    torch.manual_seed(0)
    return randomized(new_sam(TINY)).to(device)


def _predicted(photo: np.ndarray, setting: Hourglass | None, device: str) -> tuple[Any, list[int]]:
    """Masks, predicted IoU and low-res logits by all kinds of prompts; waits after each step."""
    with SecondDevice() as mode:
        sam = _sam(device)
        sam.image_encoder.hourglass = setting
        predictor = SamPredictor(sam)
        before = mode.waits
        predictor.set_image(photo)
        waits = [mode.waits - before]
        points = {"point_coords": np.array([[80, 60], [9, 9]]), "point_labels": np.array([1, 0])}
        answers = [predictor.predict(**points), predictor.predict(box=np.array([9, 9, 90, 80]))]
        answers += [predictor.predict(**points, mask_input=answers[0][2][:1])]
        before = mode.waits
        predictor.predict_torch(
            torch.rand(9, 1, 2).mul(90).to(device), torch.ones(9, 1, dtype=torch.int, device=device)
        )
        return answers, [*waits, mode.waits - before]


@pytest.mark.parametrize("setting", [*PRESETS.values(), PUBLISHED], ids=[*PRESETS, "published"])
def test_prompts(both: Callable, photo: np.ndarray, setting: Hourglass | None) -> None:
    (expected, _), (found, waits) = both(_predicted, photo, setting)
    for one, other in zip(found, expected, strict=True):
        assert (one[0] == other[0]).mean() > 0.999
        np.testing.assert_allclose(one[1], other[1], atol=1e-4)
        np.testing.assert_allclose(one[2], other[2], atol=1e-3 * np.abs(other[2]).max())
    assert waits == [0, 0]


def _everything(photo: np.ndarray, more: dict[str, Any], device: str) -> list[dict[str, Any]]:
    with SecondDevice():
        return SamAutomaticMaskGenerator(_sam(device), **{**TAKE_ALL, **more}).generate(photo)


@pytest.mark.parametrize(
    "more",
    [
        {"points_per_side": 4, "points_per_batch": 5},
        {"crop_n_layers": 1},
        {"min_mask_region_area": 40, "output_mode": "uncompressed_rle"},
        {"output_mode": "coco_rle", "pred_iou_thresh": 0.0},
    ],
    ids=str,
)
def test_everything(both: Callable, photo: np.ndarray, more: dict[str, Any]) -> None:
    expected, found = both(_everything, photo, more)
    assert expected
    for name in ("bbox", "crop_box", "point_coords", "area"):
        assert [mask[name] for mask in found] == [mask[name] for mask in expected]


def _batch(more: dict[str, Any] | None, device: str) -> list[dict[str, Any]]:
    with SecondDevice():
        task = Task.of(sam := _sam(device), everything=more)
        prompts = {
            "points": [[9.0, 9.0], [30.0, 20.0]],
            "labels": [1, 0],
            "boxes": [[2, 3, 40, 30]],
        }
        return through(sam, task, [{"n": 1, **prompts}, {"n": 2, **prompts}, {"n": 3, **prompts}])


@pytest.mark.parametrize("more", [None, TAKE_ALL])
def test_batch(both: Callable, more: dict[str, Any] | None) -> None:
    for one, other in zip(*both(_batch, more), strict=True):
        assert (one["error"], other["error"]) == (None, None)
        assert one["masks"]
        assert [m["bbox"] for m in one["masks"]] == [m["bbox"] for m in other["masks"]]


def _of_transformers(speed: str, device: str) -> np.ndarray:
    model = as_transformers_has_it(_sam("cpu"))
    pixels = torch.randn(1, 3, 320, 320, generator=torch.Generator().manual_seed(0))
    with SecondDevice(), torch.no_grad():
        expedite(model.to(device), speed)
        return model.get_image_embeddings(pixels.to(device)).cpu().numpy()


@pytest.mark.parametrize("speed", ["exact", "fast"])
def test_transformers(both: Callable, speed: str) -> None:
    pytest.importorskip("transformers")
    expected, found = both(_of_transformers, speed)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def _mixed(device: str) -> tuple[str, int]:
    with SecondDevice() as mode:
        there = torch.ones(3, device=device)
        there[there > 0].sum().item()
        there.cpu()
        try:
            there + torch.ones(3)
        except RuntimeError as error:
            return str(error), mode.waits
        return "", mode.waits


def test_the_second_device_tells_what_a_gpu_would(both: Callable) -> None:
    here, (error, waits) = both(_mixed)
    assert here == ("", 0)
    assert "two devices; on the CPU: (3,)" in error
    assert waits == 3
