"""How long each stage takes at each speed setting, on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from expedit_sam.everything import SamAutomaticMaskGenerator
from expedit_sam.hourglass.settings import Hourglass
from expedit_sam.model.expedite import expedite
from expedit_sam.model.sam import Sam
from expedit_sam.predictor import SamPredictor

DECODED_POINTS = 64


@dataclass(frozen=True)
class Speed:
    """Median seconds of each stage at one setting.

    Attributes:
        encoder: one image to its embedding.
        decoder: 64 one-point prompts to low-res logits.
        everything: one image to all its masks; None where it was not asked for.
    """

    encoder: float
    decoder: float
    everything: float | None


def measure_speed(
    sam: Sam,
    settings: Mapping[str, Hourglass | None],
    image: np.ndarray,
    *,
    repeats: int = 3,
    everything: Mapping[str, object] | None = None,
    on_step: Callable[[], object] = lambda: None,
) -> dict[str, Speed]:
    """Time every setting; settings take turns, so that a machine's moods fall on all alike.

    Arguments:
        sam: the network; ends at the setting it came with.
        settings: names and settings to compare.
        image: HxWx3 uint8.
        repeats: turns; a first one is not counted.
        everything: arguments of ``SamAutomaticMaskGenerator``; None leaves everything mode out.
        on_step: called after each turn of each setting, ``len(settings) * (repeats + 1)`` times.

    Returns:
        the speeds by the settings' names.
    """
    came_with = sam.image_encoder.hourglass
    predictor = SamPredictor(sam)
    generator = None if everything is None else SamAutomaticMaskGenerator(sam, **everything)  # type: ignore[arg-type]
    points = _points(sam)
    seconds: dict[str, list[Sequence[float]]] = {name: [] for name in settings}
    try:
        for turn in range(repeats + 1):
            for name, setting in settings.items():
                expedite(sam, setting)
                stages = [_seconds(lambda: predictor.set_image(image), sam.device)]
                stages.append(_seconds(partial(predictor.predict_low_res, *points), sam.device))
                if generator is not None:
                    stages.append(_seconds(lambda: generator.generate(image), sam.device))
                if turn > 0:
                    seconds[name].append(stages)
                on_step()
    finally:
        expedite(sam, came_with)
    return {name: _medians(stages) for name, stages in seconds.items()}


def _points(sam: Sam) -> tuple[Tensor, Tensor]:
    """One foreground point a prompt, spread over the network's input."""
    generator = torch.Generator().manual_seed(0)
    coords = torch.rand(DECODED_POINTS, 1, 2, generator=generator) * sam.image_encoder.img_size
    return coords.to(sam.device), torch.ones(DECODED_POINTS, 1, device=sam.device)


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _medians(turns: Sequence[Sequence[float]]) -> Speed:
    medians = [statistics.median(stage) for stage in zip(*turns, strict=True)]
    return Speed(medians[0], medians[1], medians[2] if len(medians) > 2 else None)
