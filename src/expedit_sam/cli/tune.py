"""``expedit-sam tune``: the speed setting for a user's own images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from expedit_sam.cli.network import CheckpointOption, DeviceOption, ModelOption, load_network

if TYPE_CHECKING:
    from expedit_sam.evaluate.tune import Point


def tune(
    images: Annotated[
        list[Path], typer.Option(metavar="PATH", help="Image files, or folders of them.")
    ],
    model: ModelOption = "vit_s",
    checkpoint: CheckpointOption = None,
    keep: Annotated[
        float, typer.Option(min=0, max=1, metavar="X", help="Least mean IoU with exact masks.")
    ] = 0.9,
    limit: Annotated[
        int, typer.Option(min=1, metavar="N", help="Only N images, drawn by --seed.")
    ] = 8,
    plot: Annotated[Path, typer.Option(metavar="FILE", help="The picture to write.")] = Path(
        "tune.png"
    ),
    seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="What the choice of images depends on.")
    ] = 0,
    device: DeviceOption = "auto",
) -> None:
    """Find the fastest speed setting that keeps your images' masks.

    No labels are needed: the masks of a grid of clicks are compared with those
    of the exact network. Prints the setting to paste, and plots what was tried.

    \b
    Example: of the masks of the photos in a folder, keep 95 %
      expedit-sam tune --images photos --keep 0.95
    """
    from expedit_sam.appearing import appearing_together, prepare_folder
    from expedit_sam.errors import InputError
    from expedit_sam.extras import require
    from expedit_sam.images import find_images

    require("tune", "evaluate", "matplotlib")
    if plot.is_dir() or plot.suffix.lower() != ".png":
        raise InputError(f"--plot {plot} is no .png: name a file that ends so")
    files = find_images(images)
    prepare_folder(plot.parent)

    import numpy as np
    from rich.console import Console

    from expedit_sam.cli.progress import passing_bar
    from expedit_sam.evaluate import tune as search

    drawn = np.random.default_rng(seed).permutation(len(files))[:limit]
    some = [files[i] for i in sorted(drawn)]
    sam = load_network(model, checkpoint, "exact", device)
    with passing_bar() as bars:
        total = len(some) * search.most_settings(len(sam.image_encoder.blocks))
        bar = bars.add_task("tuning", total=total)
        points = search.tune(sam, some, keep, on_image=lambda: bars.advance(bar))
    Console().print(_table(points))
    chosen = search.fastest(points, keep)
    if chosen.setting is None:
        typer.echo(f"no faster setting keeps {keep:g} of the exact masks: stay with --speed exact")
        if faster := [point for point in points if point.seconds < chosen.seconds]:
            nearest = max(faster, key=lambda point: point.kept)
            times = chosen.seconds / nearest.seconds
            typer.echo(
                f"nearest: --speed {nearest.name} keeps {nearest.kept:.3f}, "
                f"{times:.2f} times faster"
            )
    else:
        typer.echo(f"keeps {chosen.kept:.3f}: --speed {chosen.name}")
        values = chosen.name.replace(",", ", ")
        typer.echo(f"in Python: build_sam({model!r}, hourglass=Hourglass({values}))")
    with appearing_together(plot.parent) as place:
        (place / plot.name).write_bytes(search.plot(points, keep))
    typer.echo(f"written: {plot}")


def _table(points: list[Point]) -> object:
    """A row a setting, the slowest first."""
    from rich.table import Table

    table = Table("speed", "encode", "times faster", "IoU with exact")
    for point in sorted(points, key=lambda point: -point.seconds):
        faster = points[0].seconds / point.seconds
        table.add_row(point.name, f"{point.seconds:.2f} s", f"{faster:.2f}", f"{point.kept:.3f}")
    return table
