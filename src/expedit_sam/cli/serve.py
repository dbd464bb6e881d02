"""``expedit-sam serve``: masks over HTTP."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from expedit_sam.cli.network import (
    CheckpointOption,
    DeviceOption,
    ModelOption,
    PrecisionOption,
    SpeedOption,
    load_network,
    named_speed,
)
from expedit_sam.errors import InputError


def serve(
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="0.0.0.0 lets other computers in.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="N", help="Port; 0 takes a free one.")
    ] = 8000,
    model: ModelOption = "vit_s",
    checkpoint: CheckpointOption = None,
    speed: SpeedOption = "exact",
    precision: PrecisionOption = "float32",
    device: DeviceOption = "auto",
    megabytes: Annotated[float, typer.Option(metavar="N", help="Of the largest upload.")] = 20,
    megapixels: Annotated[float, typer.Option(metavar="N", help="Of the largest image.")] = 40,
    kept: Annotated[
        int, typer.Option(min=1, metavar="N", help="Images whose embeddings are remembered.")
    ] = 32,
    waiting: Annotated[
        int, typer.Option(min=1, metavar="N", help="Requests that may wait for the network.")
    ] = 64,
) -> None:
    """Answer over HTTP: an image and prompts in, masks out.

    GET / describes it. Nothing leaves this computer, and there is no password.
    Stop it with Ctrl+C.

    \b
    Example: the service, and what to ask it
      expedit-sam serve --speed balanced
      curl -F image=@photo.jpg -F 'prompts={"points": [[320, 200]]}' \\
        http://127.0.0.1:8000/masks
    """
    from expedit_sam.extras import require

    _check_size("--megabytes", megabytes)
    _check_size("--megapixels", megapixels)
    modules = ("fastapi", "uvicorn", "prometheus_client", "python_multipart")
    require("the service", "serve", *modules)

    from expedit_sam.listening import listen
    from expedit_sam.serve.app import build_app
    from expedit_sam.serve.engine import Engine
    from expedit_sam.serve.server import Server

    listener = listen(host, port)
    sam = load_network(model, checkpoint, speed, device, precision)
    engine = Engine(sam, model, named_speed(speed, precision), megapixels, kept, waiting)
    app = build_app(engine, megabytes)
    address, port = listener.getsockname()[:2]
    typer.echo(f"Listening on http://{f'[{address}]' if ':' in address else address}:{port}/")
    Server(app, engine).run(sockets=[listener])


def _check_size(option: str, value: float) -> None:
    if not 0 < value < math.inf:  # nor NaN
        raise InputError(f"{option} {value:g} is no size: give a number above 0")
