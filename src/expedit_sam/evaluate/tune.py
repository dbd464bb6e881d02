"""The fastest speed setting that keeps a network's masks, found on images without labels."""

from __future__ import annotations

import io
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from expedit_sam.evaluate.contestants import Network, Prompts
from expedit_sam.evaluate.metrics import iou
from expedit_sam.everything.prompts import build_point_grid
from expedit_sam.hourglass.settings import Hourglass
from expedit_sam.images import read_image
from expedit_sam.model.block import clustering_window
from expedit_sam.model.sam import Sam

# Clicks on each image, along each side.
_CLICKS = 6
# What is tried: clusters along a window's side, as a share of its tokens.
_SHARES = (11 / 14, 9 / 14, 7 / 14, 5 / 14)


@dataclass(frozen=True)
class Point:
    """A setting and what it was measured to keep and to take.

    Attributes:
        setting: None is the exact network.
        kept: mean IoU of its masks with the exact network's, 0 to 1.
        seconds: median seconds of encoding an image.
    """

    setting: Hourglass | None
    kept: float
    seconds: float

    @property
    def name(self) -> str:
        if self.setting is None:
            return "exact"
        return f"location={self.setting.location},clusters={self.setting.clusters}"


def tune(
    sam: Sam,
    images: Sequence[Path],
    keep: float,
    on_image: Callable[[], object] = lambda: None,
) -> list[Point]:
    """Measure settings on the way to the fastest that keeps ``keep`` of the masks.

    The prompts are a grid of clicks; a mask that the exact network and a setting choose for the
    same click should be the same. For each number of clusters the earliest block that keeps
    enough is found by bisection, since clustering later changes less.

    Arguments:
        sam: the network; ends at the setting it came with.
        images: files.
        keep: mean IoU with the exact masks, 0 to 1.
        on_image: called after each image at each setting.

    Returns:
        all settings measured, the exact network first.

    Raises:
        InputError: an image cannot be read.
    """
    encoder: Any = sam.image_encoder
    came_with, depth = encoder.hourglass, len(encoder.blocks)
    window = clustering_window(encoder.blocks)
    try:
        exact, masks = _measure(sam, None, images, None, on_image)
        points = [exact]
        for share in _SHARES:
            clusters = round(window * share) ** 2
            first, last = 0, depth - 1
            while first <= last:
                location = (first + last) // 2
                setting = Hourglass(location=location, clusters=clusters)
                point, _ = _measure(sam, setting, images, masks, on_image)
                points.append(point)
                if point.kept >= keep:
                    last = location - 1
                else:
                    first = location + 1
        return points
    finally:
        encoder.hourglass = came_with


def most_settings(depth: int) -> int:
    """How many settings ``tune`` measures at most in a network of ``depth`` blocks."""
    return 1 + len(_SHARES) * math.ceil(math.log2(depth + 1))


def fastest(points: Sequence[Point], keep: float) -> Point:
    """The fastest point that keeps enough; the exact network always does."""
    return min((p for p in points if p.kept >= keep), key=lambda p: p.seconds)


def plot(points: Sequence[Point], keep: float) -> bytes:
    """A png: what each setting keeps against its time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel="seconds to encode an image", ylabel="mean IoU with the exact masks")
    chosen = fastest(points, keep)
    for point in points:
        color = "C1" if point is chosen else "C0"
        axes.plot(point.seconds, point.kept, "o", color=color)
        axes.annotate(
            point.name,
            (point.seconds, point.kept),
            xytext=(4, 4),
            textcoords="offset points",
            fontsize=7,
            color=color,
        )
    axes.axhline(keep, color="grey", linestyle="--", zorder=0)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()


def _measure(
    sam: Sam,
    setting: Hourglass | None,
    images: Sequence[Path],
    exact: Sequence[np.ndarray] | None,
    on_image: Callable[[], object],
) -> tuple[Point, list[np.ndarray]]:
    """A setting's point, against the masks ``exact``; without those, its masks too.

    Masks are PxHxW booleans for each image, packed eight pixels to a byte (``np.packbits``).
    """
    network = Network("", sam, setting, digest="", everything={})
    seconds, agreements, kept = [], [], []
    for number, (spent, masks) in enumerate(_masks(network, images)):
        seconds.append(spent)
        if exact is None:
            kept.append(np.packbits(masks, axis=-1))
        else:
            before = np.unpackbits(exact[number], axis=-1, count=masks.shape[-1]).astype(bool)
            agreements.append(iou(masks, before))
        on_image()
    share = 1.0 if exact is None else float(np.concatenate(agreements).mean())
    return Point(setting, share, statistics.median(seconds)), kept


@torch.inference_mode()
def _masks(network: Network, images: Sequence[Path]) -> Iterator[tuple[float, np.ndarray]]:
    """Seconds of encoding each image, and the masks of a grid of clicks."""
    grid = build_point_grid(_CLICKS)
    for number, path in enumerate(images):
        image = read_image(path)
        if number == 0:
            network.set_image(image)  # a first time takes longer, and is not counted
        started = time.perf_counter()
        network.set_image(image)
        spent = time.perf_counter() - started
        points = (grid * [image.shape[1], image.shape[0]])[:, None]
        answer = network.ask(Prompts(points, np.ones(points.shape[:2], np.int32)))
        yield spent, answer.chosen
