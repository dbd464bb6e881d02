"""Rounds of prompts on a step's views: clicks and boxes, then clicks on what was wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from bfloat16 import bfloat16_weights
from encoder import Part, embed_part
from losses import prompt_loss
from prompts import (
    Regions,
    draw_regions,
    interior_cells,
    jittered_boxes,
    likely_regions,
    random_cells,
    to_pixels,
)
from torch import Tensor, nn
from torch.func import functional_call
from views import Views

from expedit_sam.model.mask_decoder import MaskDecoder
from expedit_sam.model.sam import Sam

# Shares: of prompts that are boxes; of clicks at the most interior place; of prompts in later
# rounds that bring the mask so far as input.
BOX_SHARE, INTERIOR_SHARE, MASK_SHARE = 0.35, 0.6, 0.6
# In this share of steps one prompt in FOLLOWED is followed by two rounds of clicks, whose losses
# have this weight. Seldom, because on a GPU each round takes as many launches as the first.
FOLLOWED_STEPS, FOLLOWED, FOLLOWED_WEIGHT = 0.25, 4, 0.25


@dataclass
class Prompts:
    """N prompts, each a box or clicks.

    Attributes:
        by_box: N.
        boxes: Nx4.
        places, labels: NxTx2 and NxT clicks; a prompt that is a box has them from the second on.
    """

    by_box: Tensor
    boxes: Tensor
    places: Tensor
    labels: Tensor

    def some(self, rows: Tensor) -> Prompts:
        return Prompts(self.by_box[rows], self.boxes[rows], self.places[rows], self.labels[rows])

    def add(self, places: Tensor, labels: Tensor) -> None:
        self.places = torch.cat([self.places, places[:, None]], dim=1)
        self.labels = torch.cat([self.labels, labels[:, None]], dim=1)

    def embed(self, encoder: Any) -> Tensor:
        """Nx(T+1)xC: clicks and a place holder, or all clicks but the first and two corners."""
        clicks = encoder(points=(self.places, self.labels), boxes=None, masks=None)[0]
        corners = encoder(points=None, boxes=self.boxes, masks=None)[0]
        boxed = torch.cat([clicks[:, 1:-1], corners], dim=1)
        return torch.where(self.by_box[:, None, None], boxed, clicks)


def step_losses(sam: Sam, views: Views, count: int, drop_path: float) -> tuple[Tensor, Tensor]:
    """Loss of ``count`` prompts on each view, and the first round's best-of-three IoU."""
    embeddings = embed_part(sam.image_encoder, views.pixels, views.part, drop_path)
    patch = sam.image_encoder.patch_embed.proj.stride[0]
    corner = (views.part.left * patch, views.part.top * patch)
    decode = partial(_decode, sam, _in_bfloat16(AllMasks(sam.mask_decoder)), embeddings, views.part)
    regions = draw_regions(views.labels, count)
    prompts, targets, chances = _first_prompts(views.labels, regions, corner)
    logits, predicted = decode(prompts)
    loss, reached = prompt_loss(logits, predicted, targets, chances, prompts.by_box)
    if torch.rand(()) >= FOLLOWED_STEPS:
        return loss, reached

    truth = regions.masks.flatten(0, 1)
    rows = (torch.arange(len(truth), device=sam.device) % count) < max(1, count // FOLLOWED)
    rows = rows.nonzero()[:, 0]
    prompts, truth = prompts.some(rows), truth[rows]
    logits, predicted = logits[rows], predicted[rows]
    alone = torch.ones(len(rows), 1, device=sam.device)
    clear = torch.ones(len(rows), dtype=torch.bool, device=sam.device)
    for _ in range(2):
        best = predicted.detach().argmax(dim=1)
        chosen = logits.detach()[torch.arange(len(rows)), best][:, None].float()
        _correct(prompts, chosen[:, 0] > 0, truth, corner)
        given = torch.rand(len(rows), device=sam.device) < MASK_SHARE
        logits, predicted = decode(prompts, chosen, given)
        more, _ = prompt_loss(logits, predicted, truth[:, None], alone, clear)
        loss = loss + FOLLOWED_WEIGHT * more
    return loss, reached


def _first_prompts(
    labels: Tensor, regions: Regions, corner: tuple[int, int]
) -> tuple[Prompts, Tensor, Tensor]:
    """A box or a click for each of BxP regions: N of them, NxAxhxw targets and NxA chances."""
    truth, device = regions.masks.flatten(0, 1), labels.device
    by_box = torch.rand(len(truth), device=device) < BOX_SHARE
    interior = torch.rand(len(truth), device=device) < INTERIOR_SHARE
    # Of a view without regions the masks are empty; their cell 0 is as good as any.
    cells = random_cells(truth)
    cells[interior] = interior_cells(truth[interior])
    targets, chances = likely_regions(labels, regions, cells.view(regions.people.shape))
    targets, chances = targets.flatten(0, 1), chances.flatten(0, 1)
    certain = torch.zeros_like(chances).scatter(1, regions.people.flatten()[:, None], 1.0)
    chances = torch.where((by_box | interior)[:, None], certain, chances)
    targets = torch.where(certain[:, :, None, None] > 0, truth[:, None], targets)
    clicks = to_pixels(cells, truth.shape[-1], corner)
    included = torch.ones(len(cells), 1, dtype=torch.long, device=device)
    prompts = Prompts(by_box, jittered_boxes(truth, corner), clicks[:, None], included)
    return prompts, targets, chances


def _correct(prompts: Prompts, masks: Tensor, truth: Tensor, corner: tuple[int, int]) -> None:
    """One more click for each of N prompts, anywhere in what is wrong (SAM, appendix A)."""
    wrong = masks ^ truth
    cells = random_cells(torch.where(wrong.flatten(1).any(1)[:, None, None], wrong, truth))
    labels = truth.flatten(1).gather(1, cells[:, None])[:, 0].long()
    prompts.add(to_pixels(cells, truth.shape[-1], corner), labels)


def _decode(
    sam: Sam,
    decoder: Callable[..., tuple[Tensor, Tensor]],
    embeddings: Tensor,
    part: Part,
    prompts: Prompts,
    masks: Tensor | None = None,
    given: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Nx4xhxw logits and Nx4 predicted IoU of equally many prompts on each of B embeddings.

    Arguments:
        masks, given: Nx1xhxw mask inputs, and N, which prompts have theirs.
    """
    encoder = sam.prompt_encoder
    each = len(prompts.boxes) // len(embeddings)
    image = embeddings[:, None].expand(-1, each, -1, -1, -1).flatten(0, 1)
    dense = part.cut(encoder(points=None, boxes=None, masks=None)[1])
    if masks is not None and given is not None:
        mapped = encoder(points=None, boxes=None, masks=masks)[1]
        dense = torch.where(given[:, None, None, None], mapped, dense)
    positions = part.cut(encoder.get_dense_pe())
    return decoder(image, positions, prompts.embed(encoder), dense.expand_as(image))


class AllMasks(nn.Module):
    """All four masks of prompts and their predicted IoU (see ``MaskDecoder.predict_masks``)."""

    def __init__(self, decoder: MaskDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, *given: Tensor) -> tuple[Tensor, Tensor]:
        return self.decoder.predict_masks(*given)


def _in_bfloat16(module: nn.Module) -> Callable[..., tuple[Tensor, Tensor]]:
    """The module with weights and arguments in bfloat16: its time is reading and writing."""
    weights = bfloat16_weights(module)
    return lambda *given: functional_call(module, weights, tuple(x.bfloat16() for x in given))
