"""PyTorch beside the other runtimes that are installed: which is fastest on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from expedit_sam.errors import InputError
from expedit_sam.evaluate.speed import Speed
from expedit_sam.export.metadata import FORMATS, read_metadata
from expedit_sam.export.write import export_sam
from expedit_sam.hourglass.settings import PRESETS
from expedit_sam.model.expedite import expedite
from expedit_sam.model.sam import Sam

SPEEDS = ("exact", "balanced")

# What writing and running each format needs.
_PACKAGES = {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}
_BY = " by "


def installed_formats() -> list[str]:
    """The formats that this environment can write and run.

    Raises:
        InputError: there are none.
    """
    formats = [name for name in FORMATS if all(map(find_spec, _PACKAGES[name]))]
    if not formats:
        raise InputError("there is no backend to compare: pip install 'expedit-sam[openvino]'")
    return formats


def export_speeds(
    sam: Sam, model: str, place: Path, formats: Sequence[str], on_step: Callable[[], object]
) -> list[Path]:
    """Export a network at each of ``SPEEDS`` in each format; the folders, all in ``place``."""
    came_with = sam.image_encoder.hourglass
    folders = []
    try:
        for speed in SPEEDS:
            expedite(sam, PRESETS[speed])
            for format in formats:
                folders.append(place / f"{speed}_{format}")
                export_sam(sam, folders[-1], model=model, format=format)
                on_step()
    finally:
        expedite(sam, came_with)
    return folders


def contestant(folder: Path, where: str = "") -> str:
    """What an export is called beside the presets: "balanced by onnx", and where it lies."""
    metadata = read_metadata(folder)
    presets = {name: preset and asdict(preset) for name, preset in PRESETS.items()}
    name = next((name for name, it in presets.items() if it == metadata.hourglass), "own setting")
    precision = "" if metadata.precision == "float32" else f" {metadata.precision}"
    return f"{name}{_BY}{metadata.format}{precision}{where}"


def fastest(speeds: Mapping[str, Speed]) -> list[str]:
    """A line for each preset that exports ran too: who is fastest at encoding and decoding.

    Arguments:
        speeds: what was measured, by the preset's name for PyTorch and by ``contestant``.
    """
    lines = []
    for preset in PRESETS:
        others = {name: speed for name, speed in speeds.items() if name.startswith(preset + _BY)}
        if others:
            candidates = {"torch": speeds[preset]} | {
                name.removeprefix(preset + _BY): speed for name, speed in others.items()
            }
            stages = {"encode": "encoder", "decode": "decoder"}
            best = [f"{what} with {_best(candidates, of)}" for what, of in stages.items()]
            lines.append(f"fastest here at {preset}: {', '.join(best)}")
    return lines


def _best(candidates: Mapping[str, Speed], stage: str) -> str:
    seconds = {name: getattr(speed, stage) for name, speed in candidates.items()}
    best = min(seconds, key=seconds.__getitem__)
    if best == "torch":
        return best
    return f"{best} ({seconds['torch'] / seconds[best]:.2f} times torch's speed)"
