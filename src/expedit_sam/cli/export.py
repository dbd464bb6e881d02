"""``expedit-sam export``: the network as ONNX or OpenVINO, for running it without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from expedit_sam.cli.network import (
    CheckpointOption,
    ModelOption,
    OutOption,
    SpeedOption,
    load_network,
)


def export(
    model: ModelOption = "vit_s",
    checkpoint: CheckpointOption = None,
    speed: SpeedOption = "exact",
    format: Annotated[
        Literal["onnx", "openvino"],
        typer.Option("--format", metavar="NAME", help="onnx or openvino."),
    ] = "onnx",
    out: OutOption = Path("exported"),
    precision: Annotated[
        Literal["float32", "float16", "int8"],
        typer.Option(metavar="NAME", help="Of the encoder: float32, float16 or int8 (onnx)."),
    ] = "float32",
    opset: Annotated[int, typer.Option(metavar="N", help="ONNX operator set, 13 to 20.")] = 17,
    return_single_mask: Annotated[
        bool, typer.Option("--return-single-mask", help="Only the best mask of a prompt.")
    ] = False,
    use_stability_score: Annotated[
        bool, typer.Option("--use-stability-score", help="Score masks by their stability.")
    ] = False,
    return_extra_metrics: Annotated[
        bool, typer.Option("--return-extra-metrics", help="Stability scores and areas too.")
    ] = False,
    images: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="Photos to compare masks on; else a drawing."),
    ] = None,
) -> None:
    """Write a network as ONNX or OpenVINO, to run it without PyTorch.

    Writes encoder, decoder and metadata.json. Then asks the result and PyTorch's
    network for masks and prints how well they agree, and so what a lower
    precision keeps.

    \b
    Example: half the size, and masks with it
      expedit-sam export --speed balanced --precision float16 --out exported
      expedit-sam masks photo.jpg --backend onnx --exported exported
    """
    from expedit_sam.appearing import prepare_folder
    from expedit_sam.images import find_images, read_image

    files = find_images(images) if images else []
    prepare_folder(out)

    from expedit_sam.evaluate.agreement import agreement, drawn_picture
    from expedit_sam.export.runtime import SamPredictor as ExportedPredictor
    from expedit_sam.export.write import export_sam
    from expedit_sam.predictor import SamPredictor

    # Which of the masks an export of single ones takes is its choice: nothing to compare.
    pictures = [] if return_single_mask else [read_image(file) for file in files]
    sam = load_network(model, checkpoint, speed, "cpu")
    written = export_sam(
        sam,
        out,
        model=model,
        format=format,
        precision=precision,
        opset=opset,
        return_single_mask=return_single_mask,
        use_stability_score=use_stability_score,
        return_extra_metrics=return_extra_metrics,
    )
    for path in written:
        typer.echo(f"written: {path} ({path.stat().st_size / 1e6:,.1f} MB)")
    if return_single_mask:
        return
    kept = agreement(SamPredictor(sam), ExportedPredictor(out), pictures or [drawn_picture()])
    number = "1 image" if len(files) == 1 else f"{len(files)} images"
    on = number if files else "a drawing (--images takes photos)"
    typer.echo(f"mean IoU with PyTorch's masks in float32: {kept:.4f}, on {on}")
