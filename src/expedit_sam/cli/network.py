"""The options that choose a network, and the network they choose."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from expedit_sam.errors import InputError

if TYPE_CHECKING:
    from expedit_sam.model.sam import Sam

ModelOption = Annotated[
    Literal["vit_s", "vit_b", "vit_l", "vit_h"],
    typer.Option(
        "--model", metavar="NAME", help="vit_s, or vit_b, vit_l, vit_h: downloaded if need be."
    ),
]
CheckpointOption = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        metavar="FILE",
        help="Its weights: .pth, .safetensors, or 'random'.",
    ),
]
SpeedOption = Annotated[
    str,
    typer.Option(
        "--speed", metavar="NAME", help="exact, quality, balanced, fast, or as 'tune' prints it."
    ),
]
PrecisionOption = Annotated[
    Literal["float32", "bfloat16", "int8"],
    typer.Option(
        "--precision",
        metavar="NAME",
        help="Of the image encoder: float32; bfloat16 (GPU, AMX); int8 (AVX-512 VNNI).",
    ),
]
CompileOption = Annotated[
    bool,
    typer.Option("--compile", help="Compile the image encoder first: for many images, on a GPU."),
]
DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    typer.Option("--device", metavar="NAME", help="auto, cpu, cuda or mps."),
]
BackendOption = Annotated[
    Literal["torch", "onnx", "openvino"] | None,
    typer.Option("--backend", metavar="NAME", help="torch, or an export's: onnx, openvino."),
]
ExportedOption = Annotated[
    Path | None,
    typer.Option("--exported", metavar="FOLDER", help="What 'expedit-sam export' wrote."),
]
OutOption = Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where results go.")]
OverlayOption = Annotated[
    bool, typer.Option("--overlay/--no-overlay", help="A picture of the masks, or none.")
]


def load_network(
    model: str,
    checkpoint: str | None,
    speed: str,
    device: str,
    precision: str = "float32",
    compiled: bool = False,
) -> Sam:
    """The network that these options stand for.

    Raises:
        InputError: an option's value is unknown, or does not fit this machine or the others.
    """
    from expedit_sam.build import build_sam
    from expedit_sam.hourglass.written import parse_setting

    setting = parse_setting(speed)
    place = _best_device(device_of(precision, device))
    if (precision, place) == ("bfloat16", "cpu") and _is_slow_at_bfloat16():
        typer.echo("bfloat16 is slower than float32 on this CPU, which lacks AMX", err=True)
    return build_sam(
        model,
        checkpoint=checkpoint,
        hourglass=setting,
        device=place,
        precision=precision,
        compiled=compiled,
    )


def device_of(precision: str, device: str) -> str:
    """The device asked for; "auto" is the CPU at int8, which no other device runs."""
    return "cpu" if (precision, device) == ("int8", "auto") else device


def named_speed(speed: str, precision: str) -> str:
    """What results call a speed setting at a precision."""
    return speed if precision == "float32" else f"{speed} in {precision}"


def find_export(backend: str | None, folder: Path | None) -> tuple[Path, str]:
    """The folder of an export, and the name of its network.

    Raises:
        InputError: there is none, or it is not for this backend.
    """
    from expedit_sam.export.metadata import read_metadata

    if folder is None:
        raise InputError(
            f"--backend {backend} needs --exported FOLDER: "
            f"'expedit-sam export --format {backend} --out FOLDER' writes one"
        )
    metadata = read_metadata(folder)
    if backend not in (None, metadata.format):
        raise InputError(
            f"{folder} is for --backend {metadata.format}, not {backend}: leave out --backend"
        )
    return folder, metadata.model


def _is_slow_at_bfloat16() -> bool:
    """Whether this is an x86 CPU without matrix units for bfloat16."""
    from expedit_sam.products import has_bfloat16_products

    return platform.machine() in ("x86_64", "AMD64") and not has_bfloat16_products()


def _best_device(device: str) -> str:
    """The device itself, or the best one there is for "auto"."""
    import torch

    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
