from __future__ import annotations

import numpy as np

from expedit_sam.evaluate.speed import measure_speed
from expedit_sam.hourglass.settings import Hourglass
from expedit_sam.model.sam import Sam

SETTINGS = {"exact": None, "half": Hourglass(location=0.5, clusters=25)}


def test_every_setting_is_timed_and_the_network_left_as_it_came(
    tiny_sam: Sam, photo: np.ndarray
) -> None:
    tiny_sam.image_encoder.hourglass = SETTINGS["half"]
    used = []
    tiny_sam.image_encoder.register_forward_hook(
        lambda encoder, args, output: used.append(encoder.hourglass)
    )
    steps: list[None] = []
    speeds = measure_speed(tiny_sam, SETTINGS, photo, repeats=2, on_step=lambda: steps.append(None))
    assert list(speeds) == ["exact", "half"]
    assert used == [None, SETTINGS["half"]] * 3
    assert len(steps) == 6
    assert all(s.encoder > 0 and s.decoder > 0 and s.everything is None for s in speeds.values())
    assert tiny_sam.image_encoder.hourglass == SETTINGS["half"]


def test_everything_mode_is_timed_when_asked_for(tiny_sam: Sam, photo: np.ndarray) -> None:
    speeds = measure_speed(
        tiny_sam,
        {"exact": None},
        photo,
        repeats=1,
        everything={"points_per_side": 2, "pred_iou_thresh": 0.5},
    )
    assert speeds["exact"].everything is not None
    assert speeds["exact"].everything > 0
