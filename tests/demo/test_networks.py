from __future__ import annotations

import threading

import numpy as np
import pytest

from expedit_sam import SamAutomaticMaskGenerator, SamPredictor
from expedit_sam.demo.networks import Cancelled, Networks
from expedit_sam.everything.recommended import RECOMMENDED
from expedit_sam.hourglass import PRESETS


def test_only_networks_that_are_here_are_offered(
    tiny_networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("expedit_sam.weights.cache.is_cached", lambda checkpoint: False)
    sam = tiny_networks.sam("vit_s")
    assert Networks("vit_s", sam).names == ["vit_s"]
    assert Networks("vit_b", sam, "vit_b (my.pth)").names == ["vit_b (my.pth)", "vit_s"]
    monkeypatch.setattr("expedit_sam.weights.cache.is_cached", lambda checkpoint: True)
    assert Networks("vit_s", sam).names == ["vit_s", "vit_b", "vit_l", "vit_h"]


def test_encoding_is_the_predictors(tiny_networks: Networks, photo: np.ndarray) -> None:
    encoding = tiny_networks.encode("vit_s", "balanced", photo)
    sam = tiny_networks.sam("vit_s")
    assert sam.image_encoder.hourglass == PRESETS["balanced"]
    predictor = SamPredictor(sam)
    predictor.set_image(photo)
    np.testing.assert_array_equal(encoding.predictor.features, predictor.features)
    assert encoding.seconds > 0


def test_everything_is_the_generators(tiny_networks: Networks, photo: np.ndarray) -> None:
    told: list[tuple[int, int]] = []
    found = tiny_networks.segment("vit_s", "exact", 3, photo, lambda *done: told.append(done))
    generator = SamAutomaticMaskGenerator(
        tiny_networks.sam("vit_s"),
        output_mode="coco_rle",
        **RECOMMENDED["vit_s"] | {"points_per_side": 3},
    )
    assert found.records == generator.generate(photo)
    assert told == [(0, 9), (9, 9)]
    assert min(found.encode, found.decode, found.postprocess) > 0


def test_cancelling_frees_the_way(tiny_networks: Networks, photo: np.ndarray) -> None:
    def stop(done: int, total: int) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        tiny_networks.segment("vit_s", "exact", 3, photo, stop)
    assert tiny_networks.encode("vit_s", "exact", photo).seconds > 0


def test_two_people_at_different_speeds(tiny_networks: Networks, photo: np.ndarray) -> None:
    alone = {
        speed: tiny_networks.encode("vit_s", speed, photo).predictor.features for speed in PRESETS
    }
    together: dict[str, list[np.ndarray]] = {speed: [] for speed in PRESETS}

    def person(speed: str) -> None:
        for _ in range(3):
            encoding = tiny_networks.encode("vit_s", speed, photo)
            together[speed].append(encoding.predictor.features)

    threads = [threading.Thread(target=person, args=(speed,)) for speed in PRESETS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for speed, several in together.items():
        for features in several:
            np.testing.assert_allclose(features, alone[speed], rtol=1e-4, atol=1e-5)


def test_speedups_are_measured_once(
    tiny_networks: Networks, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = Networks("vit_s", tiny_networks.sam("vit_s"))
    speedups = networks.speedups("vit_s", photo)
    assert list(speedups) == list(PRESETS)
    assert speedups["exact"] == 1
    monkeypatch.setattr(networks, "encode", lambda *_: pytest.fail("measured again"))
    assert networks.speedups("vit_s", photo) is speedups
