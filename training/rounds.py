"""Rounds of prompts on one image: clicks and boxes, then clicks on what was wrong."""

from __future__ import annotations

from dataclasses import dataclass

import data
import numpy as np
import torch
from encoder import Part, embed_part
from losses import prompt_loss
from samples import CELLS_PER_TOKEN, Sample, draw_cut
from torch import Tensor

from expedit_sam.model.sam import Sam


@dataclass
class Clicks:
    """PxNx2 places (x, y) in label cells and PxN labels."""

    places: np.ndarray
    labels: np.ndarray

    def add(self, places: np.ndarray, labels: np.ndarray) -> Clicks:
        return Clicks(
            np.concatenate([self.places, places[:, None]], axis=1),
            np.concatenate([self.labels, labels[:, None]], axis=1),
        )


def to_pixels(cells: np.ndarray, corner: tuple[int, int]) -> Tensor:
    """Label cells to network pixels, as prompts are given (the encoder adds half a pixel).

    Places are (x, y) or boxes (x, y, x, y); ``corner`` is (x, y) of cell 0 in network pixels.
    """
    pixels = (cells + 0.5) * data.PIXELS_PER_CELL - 0.5
    pixels = pixels + np.tile(corner, cells.shape[-1] // 2)
    return torch.from_numpy(pixels).float()


def first_clicks(regions: data.Regions, random: np.random.Generator) -> Clicks:
    places = [
        data.most_interior_click(mask) if random.random() < 0.5 else data.random_click(mask, random)
        for mask in regions.cells
    ]
    return Clicks(np.array(places)[:, None], np.ones((len(places), 1), int))


def error_clicks(clicks: Clicks, masks: np.ndarray, targets: np.ndarray, random) -> Clicks:
    """One more click for each prompt, anywhere in what is wrong (SAM, appendix A)."""
    places, labels = [], []
    for mask, target in zip(masks, targets, strict=True):
        wrong = mask ^ target
        x, y = data.random_click(wrong if wrong.any() else target, random)
        labels.append(int(target[int(y), int(x)]))
        places.append(((np.array([x, y]) + random.random(2)) * data.CELLS_PER_LOGIT) - 0.5)
    return clicks.add(np.array(places), np.array(labels))


def image_losses(
    sam: Sam, sample: Sample, random: np.random.Generator, options
) -> tuple[Tensor, Tensor]:
    """Loss of all prompts on one image, and the first rounds' mean best-of-three IoU.

    Prompts are given to the whole part and to cuts of it: the encoder's pass costs as much as
    dozens of prompts do.
    """
    part = sample.part
    embedding = embed_part(sam.image_encoder, sample.pixels, part)
    results = [cut_losses(sam, embedding, sample.labels, part, random, options.prompts)]
    for _ in range(options.cuts):
        within = draw_cut(sample.labels, random)
        rows, columns = (
            slice(CELLS_PER_TOKEN * start, CELLS_PER_TOKEN * (start + size))
            for start, size in ((within.top, within.height), (within.left, within.width))
        )
        labels = data.complete(sample.labels, rows, columns)
        cut = Part(part.top + within.top, part.left + within.left, within.height, within.width)
        results.append(cut_losses(sam, within.cut(embedding), labels, cut, random, options.prompts))
    losses, reached = zip(*results, strict=True)
    return sum(losses) / len(losses), sum(reached) / len(reached)


def cut_losses(
    sam: Sam,
    embedding: Tensor,
    labels: np.ndarray,
    cut: Part,
    random: np.random.Generator,
    prompts: int,
) -> tuple[Tensor, Tensor]:
    """Loss of all rounds of some prompts, and the first round's best-of-three IoU.

    Arguments:
        embedding: 1xCxhxw.
        labels: annotators x up to 8h x up to 8w region numbers.
        cut: where on the canvas both stand.
    """
    regions = data.sample_regions(labels, prompts, random)
    targets = torch.from_numpy(regions.targets).to(sam.device).float()
    height, width = targets.shape[1:]
    patch = sam.image_encoder.patch_embed.proj.stride[0]
    corner = (cut.left * patch, cut.top * patch)
    positions = cut.cut(sam.prompt_encoder.get_dense_pe())

    def decode(clicks: Clicks | None, boxes: Tensor | None, masks: Tensor | None):
        points = None
        if clicks is not None:
            places = to_pixels(clicks.places, corner).to(sam.device)
            points = (places, torch.from_numpy(clicks.labels).to(sam.device))
        sparse, dense = sam.prompt_encoder(points=points, boxes=boxes, masks=masks)
        dense = dense[..., : cut.height, : cut.width]
        return sam.mask_decoder.predict_masks(embedding, positions, sparse, dense)

    by_box = random.random() < 0.25
    clicks = None if by_box else first_clicks(regions, random)
    boxes = None
    if by_box:
        jittered = np.array([data.jittered_box(mask, random) for mask in regions.cells])
        boxes = to_pixels(jittered, corner).to(sam.device)
    logits, predicted = decode(clicks, boxes, None)
    loss, reached = prompt_loss(logits[..., :height, :width], predicted, targets, clear=by_box)

    rounds = random.choice(3, p=[0.75, 0.15, 0.1])
    for _ in range(rounds):
        rows = torch.arange(len(logits))
        chosen = logits.detach()[rows, predicted.detach().argmax(dim=1)][:, None]
        masks = (chosen[:, 0, :height, :width] > 0).cpu().numpy()
        if clicks is None:
            # Clicks that follow a box stand beside it.
            clicks = Clicks(np.zeros((len(rows), 0, 2)), np.zeros((len(rows), 0), int))
        clicks = error_clicks(clicks, masks, regions.targets, random)
        mask_input = chosen if random.random() < 0.6 else None
        logits, predicted = decode(clicks, boxes, mask_input)
        more, _ = prompt_loss(logits[..., :height, :width], predicted, targets, clear=True)
        loss = loss + 0.5 * more
    return loss, reached
