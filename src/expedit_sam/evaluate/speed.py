"""How long each stage takes at each speed setting, on this machine."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from expedit_sam.evaluate.memory import PeakMemory
from expedit_sam.everything import SamAutomaticMaskGenerator
from expedit_sam.export import runtime
from expedit_sam.hourglass.settings import Hourglass
from expedit_sam.model.expedite import expedite
from expedit_sam.model.sam import Sam

DECODED_POINTS = 64


@dataclass(frozen=True)
class Speed:
    """Median seconds of each stage at one setting.

    Attributes:
        encoder: one image to its embedding.
        decoder: ``DECODED_POINTS`` one-point prompts to low-res logits.
        everything: one image to all its masks; None where it was not asked for.
        memory: peak in bytes; None where the system does not say, and where exports were timed,
            whose runtimes hold memory in the same process.
    """

    encoder: float
    decoder: float
    everything: float | None
    memory: int | None


def measure_speed(
    sam: Sam,
    settings: Mapping[str, Hourglass | None],
    image: np.ndarray,
    *,
    exports: Mapping[str, Path] = MappingProxyType({}),
    repeats: int = 3,
    everything: Mapping[str, Any] | None = None,
    on_step: Callable[[], object] = lambda: None,
) -> dict[str, Speed]:
    """Time every setting and export, in turns, so that other load on the machine affects all alike.

    Arguments:
        sam: the network; ends at the setting it came with.
        settings: names and settings to compare.
        image: HxWx3 uint8.
        exports: names and folders of exported networks to compare them with.
        repeats: turns that are counted, after a first one that is not.
        everything: arguments of ``SamAutomaticMaskGenerator``; None leaves everything mode out.
        on_step: called after each turn of each contestant.

    Returns:
        the speeds by the settings' and exports' names.

    Raises:
        InputError: an export cannot be loaded.
    """
    came_with = sam.image_encoder.hourglass
    options = everything or {}
    ours = SamAutomaticMaskGenerator(sam, **options)
    generators: dict[str, SamAutomaticMaskGenerator] = dict.fromkeys(settings, ours)
    for name, folder in exports.items():
        generators[name] = runtime.SamAutomaticMaskGenerator(folder, **options)
    height, width = image.shape[:2]
    points = np.random.default_rng(0).random((DECODED_POINTS, 2)) * (width, height)
    seconds: dict[str, list[Sequence[float]]] = {name: [] for name in generators}
    memory = PeakMemory(sam.device)
    most: dict[str, int | None] = {}
    try:
        for turn in range(repeats + 1):
            for name, generator in generators.items():
                if name in settings:
                    expedite(sam, settings[name])
                predictor = generator.predictor
                memory.start()
                stages = [_seconds(partial(predictor.set_image, image), sam.device)]
                stages.append(_seconds(partial(predictor.ask_each, points, -math.inf), sam.device))
                if everything is not None:
                    stages.append(_seconds(partial(generator.generate, image), sam.device))
                if turn > 0:
                    seconds[name].append(stages)
                    most[name] = max(most.get(name) or 0, memory.bytes() or 0) or None
                on_step()
    finally:
        expedite(sam, came_with)
    return {
        name: _speed(stages, None if exports else most[name]) for name, stages in seconds.items()
    }


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _speed(turns: Sequence[Sequence[float]], memory: int | None) -> Speed:
    medians = [statistics.median(stage) for stage in zip(*turns, strict=True)]
    return Speed(medians[0], medians[1], medians[2] if len(medians) > 2 else None, memory)
