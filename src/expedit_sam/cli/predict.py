"""``expedit-sam predict``: the mask of what points, a box or a rough mask mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expedit_sam.cli.network import (
    CheckpointOption,
    DeviceOption,
    ModelOption,
    OutOption,
    OverlayOption,
    PrecisionOption,
    SpeedOption,
    load_network,
)
from expedit_sam.errors import InputError, one_line


def predict(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", hidden=True, readable=False)],
    point: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X,Y[,0|1]", help="A pixel inside (1) or outside (0) of it; repeatable."
        ),
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(metavar="X0,Y0,X1,Y1", help="A box around it, in pixels; one alone."),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A rough mask: a picture, or logits in .npy."),
    ] = None,
    all_masks: Annotated[
        bool, typer.Option("--all", help="Three candidates instead of the best.")
    ] = False,
    out: OutOption = Path("out"),
    model: ModelOption = "vit_s",
    checkpoint: CheckpointOption = None,
    speed: SpeedOption = "exact",
    precision: PrecisionOption = "float32",
    device: DeviceOption = "auto",
    overlay: OverlayOption = True,
) -> None:
    """Find the mask that points, a box or a rough mask ask for.

    Writes NAME_prompted.json (COCO), NAME_prompted_masks/001.png, NAME_prompted_overlay.jpg and
    NAME_prompted_logits.npy, which --mask takes to refine the mask with more points.

    \b
    Example: what lies at the first point, without what lies at the second
      expedit-sam predict photo.jpg --point 320,200 --point 90,310,0
    """
    from expedit_sam import prompts
    from expedit_sam.appearing import prepare_folder
    from expedit_sam.draw import draw_prompts
    from expedit_sam.draw import overlay as draw_masks
    from expedit_sam.images import read_image
    from expedit_sam.predictor import SamPredictor
    from expedit_sam.results import write_results

    points, labels = prompts.parse_points(point or [])
    if len(box or []) > 1:
        raise InputError("--box was given twice: ask for one thing at a time")
    corners = prompts.parse_box(box[0]) if box else None
    if not point and corners is None and mask is None:
        raise InputError("nothing to look for: give --point, --box or --mask")
    pixels = read_image(image)
    prompts.check_inside(points, pixels.shape, "point")
    if corners is not None:
        prompts.check_inside(corners.reshape(2, 2), pixels.shape, "box corner")
    prepare_folder(out)

    network = load_network(model, checkpoint, speed, device, precision)
    low_res_size = network.prompt_encoder.mask_input_size
    rough = prompts.read_mask(mask, pixels.shape, low_res_size) if mask else None
    predictor = SamPredictor(network)
    predictor.set_image(pixels)
    # A single point may mean a thing, its part or the whole; any more says which.
    ambiguous = len(points) == 1 and corners is None and rough is None
    masks, scores, logits = predictor.predict(
        points if len(points) else None,
        labels if len(points) else None,
        corners,
        rough,
        multimask_output=all_masks or ambiguous,
    )
    order = scores.argsort()[::-1][: None if all_masks else 1]
    asked = {"point_coords": points.tolist(), "point_labels": labels.tolist()}
    if corners is not None:
        asked["box"] = corners.tolist()
    records = [
        {"segmentation": masks[i], "predicted_iou": float(scores[i]), **asked} for i in order
    ]
    picture = draw_prompts(draw_masks(pixels, records), points, labels, corners)
    written = write_results(
        out,
        f"{image.stem}_prompted",  # beside what 'masks' writes
        image,
        pixels.shape,
        records,
        overlay=picture if overlay else None,
        logits=logits[order[:1]],
    )
    for record in records:
        typer.echo(f"predicted IoU {record['predicted_iou']:.3f}")
    typer.echo(one_line(f"written: {', '.join(map(str, written))}"))
