"""Regions of views to ask for, and the clicks and boxes to ask with, for all views together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from views import NOTHING, SMALLEST_TRAINED, STRIDE, region_areas


@dataclass(frozen=True)
class Regions:
    """P regions of each of B views, drawn from those of all annotators.

    Attributes:
        masks: BxPxhxw bool, at low-res logits.
        people: BxP, whose they are.
        areas: BxAx256 of all regions, in logits.
    """

    masks: Tensor
    people: Tensor
    areas: Tensor


def draw_regions(labels: Tensor, count: int) -> Regions:
    """Regions of BxAxhxw labels, each at most once where there are enough."""
    areas = region_areas(labels)
    chances = torch.rand(areas.shape, device=labels.device) + 1e-3
    chances = (chances * (areas >= SMALLEST_TRAINED)).flatten(1)
    drawn, places = chances.topk(count, dim=1)
    places = torch.where(drawn > 0, places, places[:, :1])
    people, numbers = places // 256, places % 256
    own = labels.gather(1, people[:, :, None, None].expand(-1, -1, *labels.shape[2:]))
    return Regions(own == numbers[:, :, None, None], people, areas)


def random_cells(masks: Tensor) -> Tensor:
    """...xhxw bool to ... places (numbers of cells) drawn from each mask."""
    chances = torch.rand(masks.shape, device=masks.device) + 1e-3
    return (chances * masks).flatten(-2).argmax(dim=-1)


def interior_cells(masks: Tensor) -> Tensor:
    """Nxhxw bool to N places farthest from what is outside the mask or the view.

    At half the resolution: in each row the distance to the next cell outside, then over the rows
    of a column the least distance that one of those leads to.
    """
    inside = F.max_pool2d(masks[:, None].float(), 2)[:, 0] > 0
    height, width = inside.shape[1:]
    rows, columns = (torch.arange(size, device=masks.device) for size in (height, width))
    left = columns - torch.where(inside, -1, columns).cummax(dim=2).values
    right = torch.where(inside, width, columns).flip(2).cummin(dim=2).values.flip(2) - columns
    # The rows beyond the first and the last are outside.
    across = F.pad(torch.minimum(left, right).float().square(), (0, 0, 1, 1))
    down = (rows[:, None] - torch.arange(-1, height + 1, device=masks.device)).float().square()
    depth = (down[:, :, None] + across[:, None]).amin(dim=2).sqrt()[:, None]
    depth = F.interpolate(depth, scale_factor=2, mode="nearest")[:, 0]
    depth = (depth + torch.rand_like(depth)) * masks  # what is random decides between equals
    return depth.flatten(1).argmax(dim=1)


def to_pixels(cells: Tensor, width: int, corner: tuple[int, int]) -> Tensor:
    """Numbers of cells to places (x, y) in them, in network pixels as prompts are given.

    The prompt encoder adds half a pixel. ``corner`` is (x, y) of the first cell.
    """
    places = torch.stack([cells % width, cells // width], dim=-1)
    places = (places + torch.rand(places.shape, device=cells.device)) * STRIDE - 0.5
    return places + torch.tensor(corner, device=cells.device)


def jittered_boxes(masks: Tensor, corner: tuple[int, int]) -> Tensor:
    """...xhxw to ...x4 boxes in network pixels: half exact, half off by a share of their sides.

    Its standard deviation is up to a tenth (in SAM, appendix A, always a tenth).
    """
    ends = []
    for dim in (-2, -1):  # over rows: x; over columns: y
        line = masks.any(dim=dim).byte()
        first, after = line.argmax(dim=-1), line.shape[-1] - line.flip(-1).argmax(dim=-1)
        ends.append((first, after))
    (x0, x1), (y0, y1) = ends
    boxes = torch.stack([x0, y0, x1, y1], dim=-1) * float(STRIDE)
    boxes[..., 2:] -= 1
    sides = torch.cat([boxes[..., 2:] - boxes[..., :2]] * 2, dim=-1)
    most = 0.1 * (2 * torch.rand_like(boxes[..., :1]) - 1).clamp_min(0)
    moved = boxes + (most * torch.randn_like(boxes) * sides).clamp(-20, 20)
    return moved + torch.tensor(corner * 2, device=masks.device)


def likely_regions(labels: Tensor, regions: Regions, cells: Tensor) -> tuple[Tensor, Tensor]:
    """The regions that a click may mean: every annotator's under it, as likely as it is small.

    That is how likely they are if clicks are drawn evenly from their regions.

    Arguments:
        labels: BxAxhxw.
        regions: BxP of them.
        cells: BxP clicks.

    Returns:
        BxPxAxhxw masks and BxPxA chances.
    """
    numbers = labels.flatten(2)[:, :, None].expand(-1, -1, cells.shape[1], -1)
    numbers = numbers.gather(3, cells[:, None, :, None].expand(-1, labels.shape[1], -1, 1))
    numbers = numbers[..., 0].transpose(1, 2)  # BxPxA
    areas = regions.areas.gather(2, numbers.transpose(1, 2).long()).transpose(1, 2)
    there = (numbers != NOTHING) & (areas >= SMALLEST_TRAINED)
    chances = there / areas.clamp_min(1)
    masks = labels[:, None] == numbers[..., None, None]
    return masks, chances / chances.sum(dim=-1, keepdim=True).clamp_min(1e-9)
