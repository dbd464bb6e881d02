"""``expedit-sam models``: which networks there are, and fetching their weights."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

models = typer.Typer(invoke_without_command=True, rich_markup_mode=None)


@models.callback()
def _default(context: typer.Context) -> None:
    """List the networks, or download their weights.

    \b
    Example: fetch the weights of vit_b before a journey
      expedit-sam models download vit_b
    """
    if context.invoked_subcommand is None:
        list_models()


@models.command("list")
def list_models(
    verify: Annotated[
        bool, typer.Option("--verify", help="Read downloaded files and compare their sha256.")
    ] = False,
) -> None:
    """Show the networks and their weights (the default).

    \b
    Example: are the downloaded files what they should be?
      expedit-sam models list --verify
    """
    from rich.console import Console
    from rich.table import Table

    from expedit_sam.errors import CheckpointError
    from expedit_sam.weights import cache
    from expedit_sam.weights.embedded import EMBEDDED_MODEL
    from expedit_sam.weights.registry import CHECKPOINTS

    faults: list[CheckpointError] = []
    table = Table("model", "weights", "size", "where", "licence", box=None)
    table.add_row(EMBEDDED_MODEL, "", "", "in the package", "Apache-2.0")
    for name, checkpoint in CHECKPOINTS.items():
        where = "not downloaded"
        if cache.is_cached(checkpoint):
            where = "downloaded"
            if verify:
                try:
                    cache.verify(checkpoint)
                    where = "downloaded, sha256 correct"
                except CheckpointError as error:
                    faults.append(error)
                    where = "damaged"
        size = f"{checkpoint.size / 1e6:,.0f} MB"
        table.add_row(name, checkpoint.file, size, where, checkpoint.licence)
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    console.print(
        f"\nDownloads go to {cache.cache_folder()}, or to where {cache.CACHE_VARIABLE} says."
    )
    for fault in faults:
        typer.echo(f"error: {fault}", err=True)
    if faults:
        raise typer.Exit(2)


@models.command()
def download(
    name: Annotated[
        Literal["vit_s", "vit_b", "vit_l", "vit_h"],
        typer.Argument(metavar="vit_b|vit_l|vit_h", hidden=True),
    ],
) -> None:
    """Download official weights, or go on with a broken download.

    vit_s needs none: it comes with the package.

    \b
    Example: the smallest official model
      expedit-sam models download vit_b
    """
    from expedit_sam.errors import InputError
    from expedit_sam.weights.download import fetch
    from expedit_sam.weights.registry import CHECKPOINTS

    if name not in CHECKPOINTS:
        raise InputError(f"{name} comes with the package: it needs no download")
    typer.echo(fetch(CHECKPOINTS[name]))
