"""The networks that the page offers: one heavy thing at a time, everything timed."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from expedit_sam.allocator import give_back
from expedit_sam.build import build_sam
from expedit_sam.demo.clusters import ClusterMap, cluster_map
from expedit_sam.everything import SamAutomaticMaskGenerator
from expedit_sam.everything.recommended import RECOMMENDED
from expedit_sam.hourglass import PRESETS
from expedit_sam.model.sam import Sam
from expedit_sam.predictor import SamPredictor
from expedit_sam.weights import cache
from expedit_sam.weights.embedded import EMBEDDED_MODEL
from expedit_sam.weights.registry import CHECKPOINTS


class Cancelled(Exception):  # noqa: N818  (a wish, not an error)
    """The person who waited for it does not want it any more."""


@dataclass(frozen=True)
class Encoding:
    """An image encoded by a network at one speed.

    Attributes:
        predictor: has the image set, and is ready for prompts.
        seconds: that encoding took.
    """

    predictor: SamPredictor
    seconds: float


@dataclass(frozen=True)
class Found:
    """What everything mode found.

    Attributes:
        records: a dict a mask, of ``SamAutomaticMaskGenerator`` with masks as COCO RLE.
        encode, decode, postprocess: seconds of each stage.
    """

    records: list[dict[str, Any]]
    encode: float
    decode: float
    postprocess: float


class Networks:
    """Networks by name, loaded on first use and then kept.

    Encoding and everything mode hold a lock. So two people do not slow each other's runs down, the
    seconds shown are one run's alone, and nobody changes the speed of an encoder that runs.

    Arguments:
        name: architecture of the network that is there from the start.
        sam: that network.
        label: what the page calls it.
        precision: of its image encoder, and of those of the others.
    """

    def __init__(
        self, name: str, sam: Sam, label: str | None = None, precision: str = "float32"
    ) -> None:
        self.first = label or name
        self.precision = precision
        self._architecture = {self.first: name}
        for other in (EMBEDDED_MODEL, *CHECKPOINTS):
            if other == EMBEDDED_MODEL or cache.is_cached(CHECKPOINTS[other]):
                self._architecture.setdefault(other, other)
        self._loaded = {self.first: sam}
        self._speedups: dict[str, dict[str, float]] = {}
        self._busy = threading.Lock()
        self._loading = threading.Lock()
        self._measuring = threading.Lock()

    @property
    def names(self) -> list[str]:
        """What the page can offer: all networks whose weights are on this computer."""
        return list(self._architecture)

    def sam(self, name: str) -> Sam:
        """The network of this name."""
        with self._loading:
            if name not in self._loaded:
                self._loaded[name] = build_sam(
                    self._architecture[name],
                    device=self._loaded[self.first].device,
                    precision=self.precision,
                )
            return self._loaded[name]

    def points_per_side(self, name: str) -> int:
        """The grid of everything mode that suits the network."""
        return RECOMMENDED[self._architecture[name]]["points_per_side"]

    def encode(self, name: str, speed: str, image: np.ndarray) -> Encoding:
        """Encode an HxWx3 image at a preset's speed."""
        predictor = _TimedPredictor(self.sam(name))
        with self._busy:
            predictor.model.image_encoder.hourglass = PRESETS[speed]
            predictor.set_image(image)
        give_back()
        return Encoding(predictor, predictor.seconds["encode"])

    def segment(
        self,
        name: str,
        speed: str,
        points_per_side: int,
        image: np.ndarray,
        on_progress: Callable[[int, int], None],
    ) -> Found:
        """Everything mode on an HxWx3 image.

        Raises:
            Cancelled: ``on_progress`` did.
        """
        sam = self.sam(name)
        settings = RECOMMENDED[self._architecture[name]] | {"points_per_side": points_per_side}
        generator = SamAutomaticMaskGenerator(sam, output_mode="coco_rle", **settings)
        generator.predictor = predictor = _TimedPredictor(sam)
        with self._busy:
            on_progress(0, points_per_side**2)  # whoever waited may have given up
            sam.image_encoder.hourglass = PRESETS[speed]
            started = time.perf_counter()
            records = generator.generate(image, on_progress)
            whole = time.perf_counter() - started
        give_back()
        seconds = predictor.seconds
        return Found(records, **seconds, postprocess=whole - sum(seconds.values()))

    def clusters(self, name: str, speed: str, image: np.ndarray) -> ClusterMap:
        """How the tokens of an HxWx3 image are clustered at a preset other than "exact"."""
        predictor = SamPredictor(self.sam(name))
        hourglass = PRESETS[speed]
        assert hourglass is not None
        with self._busy:
            return cluster_map(predictor, image, hourglass)

    def speedups(self, name: str, image: np.ndarray) -> dict[str, float]:
        """How many times faster each preset encodes than exact, here and now; measured once.

        Each preset takes two turns and the faster one counts: the first may have to warm up, and
        either may be disturbed.
        """
        with self._measuring:
            if name not in self._speedups:
                seconds = dict.fromkeys(PRESETS, math.inf)
                for speed in [*PRESETS, *PRESETS]:
                    taken = self.encode(name, speed, image).seconds
                    seconds[speed] = min(seconds[speed], taken)
                    time.sleep(0.05)  # lets others who wait take the lock
                self._speedups[name] = {
                    speed: seconds["exact"] / value for speed, value in seconds.items()
                }
            return self._speedups[name]


class _TimedPredictor(SamPredictor):
    """Adds up the seconds that encoding and decoding take."""

    def __init__(self, sam_model: Sam) -> None:
        super().__init__(sam_model)
        self.seconds = {"encode": 0.0, "decode": 0.0}

    def set_torch_image(self, *arguments: Any, **named: Any) -> None:  # one image
        with self._timed("encode"):
            super().set_torch_image(*arguments, **named)

    def encode_scaled(self, *arguments: Any, **named: Any) -> Any:  # everything mode's crops
        with self._timed("encode"):
            return super().encode_scaled(*arguments, **named)

    def ask_each(self, *arguments: Any, **named: Any) -> Any:
        with self._timed("decode"):
            return super().ask_each(*arguments, **named)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[stage] += time.perf_counter() - started
