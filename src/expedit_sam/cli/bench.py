"""``expedit-sam bench``: what the speed settings and backends bring on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from expedit_sam.cli.network import (
    CheckpointOption,
    CompileOption,
    DeviceOption,
    ModelOption,
    PrecisionOption,
    load_network,
)
from expedit_sam.errors import InputError

if TYPE_CHECKING:
    from expedit_sam.evaluate.speed import Speed


def bench(
    image: Annotated[
        Path | None, typer.Argument(metavar="IMAGE", help="A picture of yours.", hidden=True)
    ] = None,
    model: ModelOption = "vit_s",
    checkpoint: CheckpointOption = None,
    precision: PrecisionOption = "float32",
    compiled: CompileOption = False,
    device: DeviceOption = "auto",
    repeats: Annotated[int, typer.Option(min=1, metavar="N", help="Time each N times.")] = 3,
    everything: Annotated[
        bool, typer.Option("--everything", help="Time everything mode too: slow.")
    ] = False,
    backends: Annotated[
        bool, typer.Option("--backends", help="Compare with ONNX and OpenVINO.")
    ] = False,
    exported: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="What 'export' wrote, to compare; repeatable."),
    ] = None,
) -> None:
    """Time the network at each speed setting on this machine.

    Without an image a made-up one is used; times hardly depend on it. vit_b,
    vit_l and vit_h need no download with --checkpoint random.

    \b
    Example: which of PyTorch, ONNX and OpenVINO is fastest here
      expedit-sam bench --backends
    """
    import tempfile
    from functools import partial

    import numpy as np
    import torch
    from rich.console import Console

    from expedit_sam.cli.progress import passing_bar
    from expedit_sam.evaluate.backends import (
        SPEEDS,
        contestant,
        export_speeds,
        fastest,
        installed_formats,
    )
    from expedit_sam.evaluate.speed import measure_speed
    from expedit_sam.everything.recommended import RECOMMENDED
    from expedit_sam.export.metadata import read_metadata
    from expedit_sam.hourglass import PRESETS
    from expedit_sam.images import read_image

    if backends and (precision != "float32" or compiled):
        raise InputError("--backends compares float32: leave out --precision and --compile")
    folders = {folder: f" in {folder}" for folder in exported or ()}
    for folder in folders:
        if (network := read_metadata(folder).model) != model:
            raise InputError(f"{folder} is a {network}: pass --model {network}")
    formats = installed_formats() if backends else []
    made_up = np.random.default_rng(0).integers(0, 256, (1200, 1800, 3), dtype=np.uint8)
    pixels = made_up if image is None else read_image(image)
    sam = load_network(model, checkpoint, "exact", device, precision, compiled)
    exports = len(SPEEDS) * len(formats)
    steps = exports + (len(PRESETS) + len(folders) + exports) * (repeats + 1)
    with (
        tempfile.TemporaryDirectory() as scratch,
        passing_bar() as progress,
    ):
        step = partial(progress.advance, progress.add_task("timing", total=steps))
        own = export_speeds(sam, model, Path(scratch), formats, step)
        folders |= dict.fromkeys(own, "")
        speeds = measure_speed(
            sam,
            PRESETS,
            pixels,
            exports={contestant(folder, where): folder for folder, where in folders.items()},
            repeats=repeats,
            everything=RECOMMENDED[model] if everything else None,
            on_step=step,
        )
    how = f"{precision}, compiled" if compiled else precision
    typer.echo(
        f"{model} on {sam.device}, {pixels.shape[1]}x{pixels.shape[0]} pixels, {how}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, median of {repeats} turns"
    )
    Console().print(_table(speeds))
    for line in fastest(speeds):
        typer.echo(line)
    is_plain = (precision, backends, sam.device.type) == ("float32", False, "cpu")
    if is_plain and (lower := _fastest_precision()):
        typer.echo(f"this CPU has instructions for {lower} too: --precision {lower} times that")


def _fastest_precision() -> str | None:
    """The lower precision that this CPU is made for, if any."""
    from expedit_sam import products
    from expedit_sam.model import int8

    if products.has_bfloat16_products():
        return "bfloat16"
    return "int8" if int8.has_integer_products() else None


def _table(speeds: dict[str, Speed]) -> object:
    """A row a setting: seconds of each stage, and a bar of the encoder's."""
    from rich.progress_bar import ProgressBar
    from rich.table import Column, Table

    with_memory = all(speed.memory is not None for speed in speeds.values())
    with_everything = next(iter(speeds.values())).everything is not None
    table = Table(Column("speed", no_wrap=True), "encode", "times faster", "decode 64 points")
    if with_everything:
        table.add_column("everything")
    if with_memory:
        table.add_column("peak memory")
    table.add_column("encoder time")
    slowest = max(speed.encoder for speed in speeds.values())
    exact = speeds["exact"].encoder
    for name, speed in speeds.items():
        cells = [name, f"{speed.encoder:.2f} s", f"{exact / speed.encoder:.2f}"]
        cells.append(f"{speed.decoder:.2f} s")
        if speed.everything is not None:
            cells.append(f"{speed.everything:.1f} s")
        if speed.memory is not None:
            cells.append(f"{speed.memory / 1e9:.2f} GB")
        # Of these bars rich knows plain ones too, where an output's encoding lacks others.
        bar = ProgressBar(
            slowest, speed.encoder, width=16, complete_style="none", finished_style="none"
        )
        table.add_row(*cells, bar)
    return table
