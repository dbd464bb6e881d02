"""``expedit-sam evaluate``: what speed settings cost in quality."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from expedit_sam.cli.everything import SkipCoveredOption
from expedit_sam.cli.network import (
    CheckpointOption,
    DeviceOption,
    ModelOption,
    OutOption,
    PrecisionOption,
    load_network,
    named_speed,
)

if TYPE_CHECKING:
    from expedit_sam.evaluate.contestants import Network
    from expedit_sam.hourglass import Hourglass
    from expedit_sam.model.sam import Sam


def evaluate(
    data: Annotated[Path, typer.Argument(metavar="DATA", hidden=True)],
    model: ModelOption = "vit_s",
    checkpoint: CheckpointOption = None,
    speed: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LIST",
            help="Presets or settings as in the example; repeatable. Else all presets.",
        ),
    ] = None,
    precision: PrecisionOption = "float32",
    prompts: Annotated[
        str,
        typer.Option(metavar="LIST", help="What to ask; 'everything' too, which is slow."),
    ] = "click,clicks3,clicks5,box,jittered-box",
    skip_covered: SkipCoveredOption = 0.0,
    baselines: Annotated[
        str, typer.Option(metavar="LIST", help="Others to compare: grabcut, slic, felzenszwalb.")
    ] = "",
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only N images, drawn by --seed.")
    ] = None,
    regions: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="At most N regions of each image.")
    ] = None,
    image_folder: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where a COCO json's images are.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="What random choices depend on.")
    ] = 0,
    out: OutOption = Path("evaluation"),
    device: DeviceOption = "auto",
) -> None:
    """Measure quality and time of speed settings on labelled images.

    --skip-covered X runs each setting with and without it, --precision P in float32
    and in P. DATA is a COCO json, or a folder of images with NAME.png (a label map)
    or NAME.npz (as in BSDS500) beside them. Writes report.md, report.json and
    report.png. A run that was stopped goes on where it was.

    \b
    Example: two presets, a setting and the published method, on 20 images
      expedit-sam evaluate bsds500/val --limit 20 \\
        --speed balanced,fast,location=6,clusters=81 \\
        --speed published:location=6,clusters=81
    """
    from expedit_sam.appearing import prepare_folder
    from expedit_sam.errors import InputError
    from expedit_sam.extras import require

    require("evaluate", "evaluate", "matplotlib", "skimage")
    prepare_folder(out)

    import torch

    from expedit_sam.cli.progress import passing_bar
    from expedit_sam.evaluate.baselines import find_baselines
    from expedit_sam.evaluate.costs import encoder_cost
    from expedit_sam.evaluate.datasets import draw_examples, find_examples
    from expedit_sam.evaluate.prompts import EVERYTHING, check_kinds
    from expedit_sam.evaluate.report import summarize, tables, write_report
    from expedit_sam.evaluate.run import evaluate as measure
    from expedit_sam.hourglass.written import parse_settings

    kinds = check_kinds(_names(prompts))
    if skip_covered > 0 and EVERYTHING not in kinds:
        raise InputError("--skip-covered is about everything mode: add --prompts everything")
    settings = parse_settings(speed or ["exact,quality,balanced,fast"])
    others = find_baselines(_names(baselines))
    examples = draw_examples(find_examples(data, image_folder), limit, seed)
    sam = load_network(model, checkpoint, "exact", device)
    networks = _networks_at(settings, model, sam, skip_covered)
    if precision != "float32":
        reduced = load_network(model, checkpoint, "exact", device, precision)
        named = {named_speed(name, precision): value for name, value in settings.items()}
        networks += _networks_at(named, model, reduced)
    costs = {one.name: encoder_cost(sam.image_encoder, one.setting) for one in networks}
    with passing_bar() as bars:
        bar = bars.add_task("evaluating")
        results = measure(
            networks,
            others,
            examples,
            kinds,
            out / "records",
            seed=seed,
            regions=regions,
            on_progress=lambda done, total: bars.update(bar, completed=done, total=total),
        )
    found = sum(len(one[kinds[0]].get("iou", ())) for one in results["exact"])
    if not found:
        raise InputError(f"{data} holds no region of 0.1 % of its image or more: add larger ones")
    summary = summarize(results, seed)
    about = {
        "data": str(data),
        "images": len(examples),
        "regions": found,
        "model": model,
        "checkpoint": checkpoint,
        "seed": seed,
        "device": str(sam.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    written = write_report(out, summary, costs, about)
    typer.echo(tables(summary, costs))
    typer.echo(f"written: {', '.join(map(str, written))}")


def _networks_at(
    settings: dict[str, Hourglass | None], model: str, sam: Sam, skip_covered: float = 0.0
) -> list[Network]:
    """A network at each setting, and at each once more if points that masks cover are skipped."""
    from expedit_sam.evaluate.contestants import networks_at
    from expedit_sam.everything.recommended import RECOMMENDED

    generating = RECOMMENDED[model]
    networks = networks_at(sam, settings, generating)
    if skip_covered > 0:
        named = {f"{name}, skip_covered {skip_covered:g}": v for name, v in settings.items()}
        networks += networks_at(sam, named, generating | {"skip_covered": skip_covered})
    return networks


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
