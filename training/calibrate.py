"""Set what training photos cannot tell a ``vit_s``: how large its masks are, how sure it may be.

    python training/calibrate.py --data data --checkpoint average.pt --out calibrated.pt

The network knows its training photos so well that it hardly ever doubts there. Elsewhere it does,
and a mask of all that is likelier in than out is then smaller than the mask of the highest expected
IoU. So what is added to all logits is chosen on bsds500/val, and a line for each mask's predicted
IoU. Prints what the choice of each half of the photos reaches on the other half.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from data import Photo, read_photos
from evaluate import image_embedding, trials
from packaged import load_start, save_weights
from torch import Tensor

from expedit_sam.model.architectures import ARCHITECTURES, new_sam
from expedit_sam.model.sam import Sam

# What may be added to a mask's logits.
OFFSETS = torch.arange(-6, 17) / 20


@dataclass
class Reached:
    """What R regions' masks reach.

    Attributes:
        click, box: Rx4xO IoU of each of the four masks for a click, and for a box, with each of
            the O ``OFFSETS``.
        click_iou, box_iou: Rx4 predicted IoU.
        photo: R, number of the photo that a region is of.
    """

    click: Tensor
    box: Tensor
    click_iou: Tensor
    box_iou: Tensor
    photo: Tensor

    def of(self, rows: Tensor) -> Reached:
        """The same of some regions."""
        return Reached(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass
class Calibration:
    """What is added to logits, and a line (factor and summand) that predicted IoU is put through.

    Attributes:
        offset: index into ``OFFSETS``.
        lines: 4x2, factor and summand for each mask.
    """

    offset: int
    lines: Tensor


def iou_by_offset(logits: Tensor, truth: Tensor) -> Tensor:
    """IoU of PxMxHxW logits with PxHxW bool regions, with each of the O ``OFFSETS``: PxMxO."""
    prompts, masks = logits.shape[:2]
    # A pixel belongs to the mask from the offset at its place on.
    places = torch.bucketize(-logits.flatten(2), OFFSETS, right=True)
    bins = len(OFFSETS) + 1
    places += bins * torch.arange(prompts * masks).view(prompts, masks, 1)
    within = truth.flatten(1)[:, None].expand(-1, masks, -1)
    common, spilt = (
        torch.bincount(places[chosen], minlength=prompts * masks * bins)
        .view(prompts, masks, bins)
        .cumsum(dim=2)[..., :-1]
        for chosen in (within, ~within)
    )
    return common / (truth.sum((1, 2))[:, None, None] + spilt)


@torch.no_grad()
def reached(sam: Sam, photo: Photo, number: int, every: int) -> Reached:
    """What the masks of every ``every``-th region of photo ``number`` reach."""
    parts = []
    for trial in trials(sam, photo, image_embedding(sam, photo), every):
        columns = []
        for sparse, dense in (trial.embed(*trial.clicks()), trial.embed(boxes=trial.boxes())):
            logits, iou = sam.mask_decoder.predict_masks(
                trial.embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense
            )
            columns.append((iou_by_offset(trial.full_size(logits), trial.truth_tensor), iou))
        (click, click_iou), (box, box_iou) = columns
        parts.append(Reached(click, box, click_iou, box_iou, torch.full((len(click),), number)))
    return joined(parts)


def joined(parts: list[Reached]) -> Reached:
    """The regions of all parts in one."""
    return Reached(
        *(torch.cat([getattr(p, field.name) for p in parts]) for field in fields(Reached))
    )


def fitted(regions: Reached) -> Calibration:
    """The calibration with the highest sum of IoU over three figures.

    They are the best of a click's three masks, the one with the best score, and a box's mask.
    """

    def worth(chosen: Calibration) -> float:
        sums = figures(regions, chosen)
        return sums["best of three"] + sums["predicted best"] + sums["box"]

    return max((_with_lines(regions, offset) for offset in range(len(OFFSETS))), key=worth)


def _with_lines(regions: Reached, offset: int) -> Calibration:
    lines = [line_of(regions.box_iou[:, 0], regions.box[:, 0, offset])]
    for mask in (1, 2, 3):
        lines.append(line_of(regions.click_iou[:, mask], regions.click[:, mask, offset]))
    return Calibration(offset, torch.stack(lines))


def line_of(predicted: Tensor, truth: Tensor) -> Tensor:
    """Factor and summand that bring R predicted IoU nearest to R true ones (least squares)."""
    known = torch.stack([predicted, torch.ones_like(predicted)], dim=1)
    return torch.linalg.lstsq(known, truth[:, None]).solution[:, 0]


def figures(regions: Reached, chosen: Calibration) -> dict[str, float]:
    """Sums over regions of what a calibration reaches, and of the error of predicted IoU."""
    masks = regions.click[:, 1:, chosen.offset]
    iou = (regions.click_iou * chosen.lines[:, 0] + chosen.lines[:, 1])[:, 1:]
    predicted, best = iou.max(dim=1)
    picked = masks.gather(1, best[:, None])[:, 0]
    sums = {
        "best of three": masks.amax(dim=1),
        "predicted best": picked,
        "box": regions.box[:, 0, chosen.offset],
        "error of predicted IoU": (predicted - picked).abs(),
    }
    return {name: float(values.sum()) for name, values in sums.items()}


def apply(sam: Sam, chosen: Calibration) -> None:
    """Put a calibration into the network's weights."""
    decoder: Any = sam.mask_decoder
    decoder.logit_filter.offset += OFFSETS[chosen.offset]
    last = decoder.iou_prediction_head.layers[-1]
    factor, added = chosen.lines.T
    last.weight.mul_(factor[:, None])
    last.bias.mul_(factor).add_(added)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds bsds500/")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="for export.py")
    parser.add_argument("--every", type=int, default=3, metavar="N", help="every N-th region")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()

    sam = new_sam(ARCHITECTURES["vit_s"]).eval()
    load_start(sam, options.checkpoint)
    photos = read_photos(options.data / "bsds500" / "val")
    with ThreadPoolExecutor(
        options.threads, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        parts = pool.map(lambda i: reached(sam, photos[i], i, options.every), range(len(photos)))
        regions = joined(list(parts))

    halves = [regions.of(regions.photo % 2 == half) for half in (0, 1)]
    plain = Calibration(int(OFFSETS.abs().argmin()), torch.tensor([[1.0, 0.0]] * 4))
    across = [figures(halves[half], fitted(halves[1 - half])) for half in (0, 1)]
    chosen = fitted(regions)
    print(f"{len(regions.photo)} regions")
    for name, sums in (
        ("before", [figures(regions, plain)]),
        ("by the other half", across),
        ("by all", [figures(regions, chosen)]),
    ):
        means = {k: round(sum(s[k] for s in sums) / len(regions.photo), 4) for k in sums[0]}
        print(f"{name}: {means}")
    print(f"offset {OFFSETS[chosen.offset]:.2f}, lines {chosen.lines.tolist()}")
    apply(sam, chosen)
    save_weights(sam.state_dict(), options.out)


if __name__ == "__main__":
    main()
