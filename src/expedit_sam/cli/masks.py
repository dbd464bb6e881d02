"""``expedit-sam masks``: segment everything in images."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from expedit_sam.cli.everything import (
    CropNLayersOption,
    MinMaskRegionAreaOption,
    PointsPerBatchOption,
    PointsPerSideOption,
    PredIouThreshOption,
    SkipCoveredOption,
    StabilityScoreThreshOption,
    given_settings,
    image_fault,
    is_disk_full,
)
from expedit_sam.cli.network import (
    BackendOption,
    CheckpointOption,
    CompileOption,
    DeviceOption,
    ExportedOption,
    ModelOption,
    OutOption,
    OverlayOption,
    PrecisionOption,
    SpeedOption,
    find_export,
    load_network,
)
from expedit_sam.errors import InputError, one_line

if TYPE_CHECKING:
    import numpy as np

    from expedit_sam.everything import SamAutomaticMaskGenerator
    from expedit_sam.model.sam import Sam

# The defaults of the options that choose a network.
DEFAULT_NETWORK = ("vit_s", None, "exact", "float32", False, "auto")


def masks(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES", hidden=True, readable=False)],
    out: OutOption = Path("out"),
    model: ModelOption = "vit_s",
    checkpoint: CheckpointOption = None,
    speed: SpeedOption = "exact",
    precision: PrecisionOption = "float32",
    compiled: CompileOption = False,
    device: DeviceOption = "auto",
    formats: Annotated[
        str, typer.Option("--format", metavar="LIST", help="Any of coco, png, yolo, labelme.")
    ] = "coco,png",
    overlay: OverlayOption = True,
    points_per_side: PointsPerSideOption = None,
    points_per_batch: PointsPerBatchOption = 64,
    pred_iou_thresh: PredIouThreshOption = None,
    stability_score_thresh: StabilityScoreThreshOption = None,
    min_mask_region_area: MinMaskRegionAreaOption = None,
    crop_n_layers: CropNLayersOption = 0,
    skip_covered: SkipCoveredOption = 0.0,
    backend: BackendOption = None,
    exported: ExportedOption = None,
) -> None:
    """Find the masks of everything in images and in folders of them.

    Writes NAME.json (COCO), NAME_masks/001.png ... and NAME_overlay.jpg for each
    image NAME. Options with (*) have a default for each model.

    \b
    Example: a photo and all in a folder, with a faster image encoder
      expedit-sam masks photo.jpg more_photos --out results --speed balanced
    """
    from expedit_sam.appearing import prepare_folder
    from expedit_sam.images import find_images
    from expedit_sam.results import check_formats, check_inputs_stay

    given = given_settings(
        points_per_side=points_per_side,
        pred_iou_thresh=pred_iou_thresh,
        stability_score_thresh=stability_score_thresh,
        min_mask_region_area=min_mask_region_area,
    )
    kinds = check_formats(formats.split(","))
    files = find_images(images, without=out)
    check_inputs_stay(out, images, files)
    prepare_folder(out)

    from expedit_sam.everything.recommended import RECOMMENDED

    network: Sam | Path
    name: str = model
    if exported is None and backend in (None, "torch"):
        from expedit_sam.everything import SamAutomaticMaskGenerator

        network = load_network(model, checkpoint, speed, device, precision, compiled)
    else:
        from expedit_sam.export.runtime import SamAutomaticMaskGenerator

        if (model, checkpoint, speed, precision, compiled, device) != DEFAULT_NETWORK:
            raise InputError(
                "an export has its own network, for a CPU: leave out --model, --checkpoint, "
                "--speed, --precision, --compile and --device"
            )
        network, name = find_export(backend, exported)
    generator = SamAutomaticMaskGenerator(
        network,
        points_per_batch=points_per_batch,
        crop_n_layers=crop_n_layers,
        skip_covered=skip_covered,
        output_mode="coco_rle",
        **RECOMMENDED[name] | given,
    )
    faults = _segment(generator, files, out, kinds, overlay)
    for fault in faults:
        typer.echo(f"error: {one_line(fault)}", err=True)
    if faults:
        raise typer.Exit(2)


def _segment(
    generator: SamAutomaticMaskGenerator,
    files: list[Path],
    out: Path,
    formats: list[str],
    with_overlay: bool,
) -> list[InputError]:
    """Segment each image and write its masks; returns what is wrong with those left out."""
    from expedit_sam.cli.progress import ImageProgress
    from expedit_sam.draw import overlay
    from expedit_sam.read_ahead import read_ahead
    from expedit_sam.results import check_replaceable, result_names, write_results

    faults: list[InputError] = []
    count, done, started = 0, 0, time.perf_counter()
    images = read_ahead(map(_read, files), 1)
    with ImageProgress(len(files)) as progress:
        for file, name, image in zip(files, result_names(files), images, strict=True):
            progress.begin(file.name)
            if isinstance(image, InputError):
                faults.append(image)
                progress.end(f"{file}: skipped")
                continue
            try:
                check_replaceable(out, name, file, formats)
                records = generator.generate(image, progress.points)
                picture = overlay(image, records) if with_overlay else None
                written = write_results(out, name, file, image.shape, records, formats, picture)
            except Exception as error:
                faults.append(image_fault(error, file))
                if is_disk_full(error):
                    break  # the other images could not be written either
                progress.end(f"{file}: not written")
                continue
            count, done = count + len(records), done + 1
            found = "1 mask" if len(records) == 1 else f"{len(records)} masks"
            progress.end(f"{file}: {found} in {', '.join(map(str, written))}")
    seconds = time.perf_counter() - started
    typer.echo(
        f"masks: {count}; images: {done} of {len(files)}; time: {seconds:.1f} s; folder: {out}"
    )
    if done and not count:
        typer.echo("no mask was good enough: lower --pred-iou-thresh and --stability-score-thresh")
    return faults


def _read(file: Path) -> np.ndarray | InputError:
    """The image of a file, or what is wrong with it."""
    from expedit_sam.images import read_image

    try:
        return read_image(file)
    except InputError as fault:
        return fault
