"""``expedit-sam demo``: the web demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expedit_sam.cli.network import (
    CheckpointOption,
    DeviceOption,
    ModelOption,
    PrecisionOption,
    load_network,
)


def demo(
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="0.0.0.0 lets other computers in.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=1, max=65535, metavar="N", help="Port of the page.")
    ] = 7860,
    model: ModelOption = "vit_s",
    checkpoint: CheckpointOption = None,
    precision: PrecisionOption = "float32",
    device: DeviceOption = "auto",
) -> None:
    """Open a page for the browser to try it all.

    It finds masks of everything and of what is clicked, compares speeds and shows
    the clusters inside. Stop it with Ctrl+C. Nothing leaves this computer. The page
    also offers vit_s and the models that expedit-sam models has downloaded.

    \b
    Example: on another port, with weights of yours
      expedit-sam demo --port 8000 --model vit_b --checkpoint my.pth
    """
    import time

    from expedit_sam.extras import require

    require("the demo", "demo", "gradio")

    from expedit_sam.demo.networks import Networks
    from expedit_sam.demo.server import running
    from expedit_sam.listening import listen

    listen(host, port).close()
    sam = load_network(model, checkpoint, "exact", device, precision)
    label = f"{model} ({Path(checkpoint).name})" if checkpoint else model
    with running(Networks(model, sam, label, precision), host, port) as address:
        typer.echo(f"Open {address} in a browser. Ctrl+C stops.")
        while True:
            time.sleep(3600)  # Windows lets Ctrl+C end this, but no lock
