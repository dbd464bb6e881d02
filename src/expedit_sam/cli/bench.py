"""``expedit-sam bench``: what the speed settings bring on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from expedit_sam.cli.network import CheckpointOption, DeviceOption, ModelOption, load_network
from expedit_sam.errors import InputError

if TYPE_CHECKING:
    from expedit_sam.evaluate.speed import Speed


def bench(
    image: Annotated[
        Path | None, typer.Argument(metavar="IMAGE", help="A picture of yours.", hidden=True)
    ] = None,
    model: ModelOption = "vit_s",
    checkpoint: CheckpointOption = None,
    device: DeviceOption = "auto",
    repeats: Annotated[int, typer.Option(min=1, metavar="N", help="Turns to take.")] = 3,
    everything: Annotated[
        bool, typer.Option("--everything", help="Time everything mode too: slow.")
    ] = False,
    exported: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="An export to compare; repeatable."),
    ] = None,
) -> None:
    """Time the network at each speed setting on this machine.

    Without an image a made-up one is used; times hardly depend on it. vit_b,
    vit_l and vit_h need no download with --checkpoint random.

    \b
    Example: PyTorch beside what 'expedit-sam export' wrote to two folders
      expedit-sam bench --exported onnx --exported openvino
    """
    import numpy as np
    import torch
    from rich.console import Console
    from rich.progress import track

    from expedit_sam.evaluate.speed import measure_speed
    from expedit_sam.everything.recommended import RECOMMENDED
    from expedit_sam.export.metadata import read_metadata
    from expedit_sam.hourglass import PRESETS
    from expedit_sam.images import read_image

    exports = {}
    for folder in exported or ():
        metadata = read_metadata(folder)
        exports[f"{metadata.format} in {folder}"] = folder
        if metadata.model != model:
            raise InputError(f"{folder} is a {metadata.model}: pass --model {metadata.model}")
    made_up = np.random.default_rng(0).integers(0, 256, (1200, 1800, 3), dtype=np.uint8)
    pixels = made_up if image is None else read_image(image)
    sam = load_network(model, checkpoint, "exact", device)
    steps = iter(
        track(
            range((len(PRESETS) + len(exports)) * (repeats + 1) + 1),
            description="timing",
            console=Console(stderr=True),
            transient=True,
        )
    )
    next(steps)
    speeds = measure_speed(
        sam,
        PRESETS,
        pixels,
        exports=exports,
        repeats=repeats,
        everything=RECOMMENDED[model] if everything else None,
        on_step=lambda: next(steps, None),
    )
    typer.echo(
        f"{model} on {sam.device}, {pixels.shape[1]}x{pixels.shape[0]} pixels, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"median of {repeats} turns"
    )
    Console().print(_table(speeds))


def _table(speeds: dict[str, Speed]) -> object:
    """A row a setting: seconds of each stage, and a bar of the encoder's."""
    from rich.bar import Bar
    from rich.table import Table

    with_everything = next(iter(speeds.values())).everything is not None
    table = Table("speed", "encode", "times faster", "decode 64 points")
    if with_everything:
        table.add_column("everything")
    table.add_column("encoder time")
    slowest = max(speed.encoder for speed in speeds.values())
    exact = speeds["exact"].encoder
    for name, speed in speeds.items():
        cells = [name, f"{speed.encoder:.2f} s", f"{exact / speed.encoder:.2f}"]
        cells.append(f"{speed.decoder:.2f} s")
        if speed.everything is not None:
            cells.append(f"{speed.everything:.1f} s")
        table.add_row(*cells, Bar(slowest, 0, speed.encoder, width=24))
    return table
