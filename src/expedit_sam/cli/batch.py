"""``expedit-sam batch``: masks of a data set, on one machine or many."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from expedit_sam.cli.everything import (
    CropNLayersOption,
    MinMaskRegionAreaOption,
    PointsPerBatchOption,
    PointsPerSideOption,
    PredIouThreshOption,
    StabilityScoreThreshOption,
    given_settings,
)
from expedit_sam.cli.network import (
    CheckpointOption,
    DeviceOption,
    ModelOption,
    OutOption,
    PrecisionOption,
    SpeedOption,
    device_of,
    load_network,
    named_speed,
)
from expedit_sam.errors import InputError

if TYPE_CHECKING:
    from expedit_sam.batch.estimate import Estimate


def batch(
    source: Annotated[str, typer.Argument(metavar="SOURCE", hidden=True)],
    out: OutOption = Path("out"),
    model: ModelOption = "vit_s",
    checkpoint: CheckpointOption = None,
    speed: SpeedOption = "exact",
    precision: PrecisionOption = "float32",
    device: DeviceOption = "auto",
    image_folder: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Where names in SOURCE start from.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--everything", help="Find everything even if SOURCE has prompts.")
    ] = False,
    points_per_side: PointsPerSideOption = None,
    points_per_batch: PointsPerBatchOption = 64,
    pred_iou_thresh: PredIouThreshOption = None,
    stability_score_thresh: StabilityScoreThreshOption = None,
    min_mask_region_area: MinMaskRegionAreaOption = None,
    crop_n_layers: CropNLayersOption = 0,
    workers: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Networks at once, by Ray; 0: no Ray."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="CPU threads of each; fixed for a job.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Of a Ray cluster to run on.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the first N images.")
    ] = None,
    shard: Annotated[str, typer.Option(metavar="I/N", help="Do the I-th of N shares.")] = "1/1",
    images_per_shard: Annotated[
        int, typer.Option(min=1, metavar="N", help="Images per Parquet file.")
    ] = 64,
    coco: Annotated[bool, typer.Option("--coco", help="Write coco.json at the end too.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try images that failed again.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would take, from a few images.")
    ] = False,
) -> None:
    """Find masks in all images of a data set: Parquet in OUT/shards.

    SOURCE: a folder, a list (.txt), WebDataset (.tar), .parquet or COCO .json, or
    several as a glob; s3://, gs://, hf:// ... too. Boxes or points in it are the
    prompts. Stopped at any moment, the same command goes on where it was. (*): a default for
    each model.

    \b
    Example: two networks at once
      expedit-sam batch photos --out masks --workers 2 --speed balanced
    """
    from expedit_sam.batch.start import Request, estimate_request, start
    from expedit_sam.cli.progress import BatchProgress

    if workers == 0 and address:
        raise InputError("--workers 0 does without Ray: leave out --address, or pass more workers")
    given = given_settings(
        points_per_side=points_per_side,
        pred_iou_thresh=pred_iou_thresh,
        stability_score_thresh=stability_score_thresh,
        min_mask_region_area=min_mask_region_area,
        crop_n_layers=crop_n_layers,
    )
    request = Request(
        source=source,
        images=image_folder,
        limit=limit,
        model=model,
        speed=named_speed(speed, precision),
        everything=everything,
        generator=given,
        points_per_batch=points_per_batch,
        images_per_shard=images_per_shard,
        threads=threads,
    )
    share = _share(shard)
    if workers is None and not address and find_spec("ray") is None:
        workers = 0
    place = device_of(precision, device)
    # Ray's workers move their copies to the device themselves.
    own_place = place if workers == 0 or dry_run or precision == "int8" else "cpu"
    sam = load_network(model, checkpoint, speed, own_place, precision)
    if dry_run:
        _tell_estimate(estimate_request(request, sam))
        return
    with BatchProgress() as progress:
        summary = start(
            request,
            sam,
            out,
            share=share,
            workers=workers,
            device=place,
            address=address,
            coco=coco,
            retry_failed=retry_failed,
            on_progress=progress.update,
        )
    _tell_summary(summary, out)


def _tell_estimate(expected: Estimate) -> None:
    typer.echo(
        f"images: {expected.images}; one worker: about {expected.hours:.2f} hours; "
        f"results: about {expected.bytes / 1e6:,.1f} MB "
        f"(from {expected.measured} images, {expected.failures} of them unreadable)"
    )


def _tell_summary(summary: dict[str, Any], out: Path) -> None:
    ran = summary["last_run"]
    typer.echo(
        f"masks: {summary['masks']}; images: {summary['segmented']} of {summary['images']}; "
        f"failed: {summary['failed']}; left: {summary['pending']}; "
        f"time: {ran['seconds']:.1f} s; folder: {out}"
    )
    if summary["failed"]:
        typer.echo(f"{out}/summary.json says why they failed; --retry-failed tries them again")


def _share(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    part, parts = map(int, match.groups()) if match else (0, 0)
    if not 1 <= part <= parts:
        raise InputError(f"--shard {text!r} is not I/N with I from 1 to N: write 2/8 for instance")
    return part, parts
