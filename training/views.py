"""Views of photos, made where the network is: cropped, turned, scaled, recoloured, pasted into."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from data import Photo
from encoder import Part
from torch import Tensor
from torch.nn import functional as F

from expedit_sam.model.image_encoder import clustering_window
from expedit_sam.model.sam import Sam

# Pixels per token and per low-res logit, which labels are kept at.
PATCH, STRIDE = 16, 4
# Of the one photo in ten that more people annotated, the others' regions are left out.
MOST_ANNOTATORS = 6
# A photo's regions have numbers below NUMBERS, those pasted into it from there on; NOTHING is none.
NUMBERS, NOTHING = 128, 255
# Shares: of views that show the photo unchanged, as users' are; of the other views, those that are
# turned; of all views, those with regions pasted in.
WHOLE_SHARE, TURNED_SHARE, PASTED_SHARE = 0.4, 0.5, 0.6
# The other views are scaled by a factor in this range, and turned and stretched by normal draws of
# these standard deviations: in degrees, and of the logarithm of width over height.
SCALES, TURN, STRETCH = (0.7, 2.0), 12.0, 0.2
# Standard deviation of the share of another colour channel that is mixed into a channel.
MIXED = 0.16
# At most so many regions are pasted into a view, each smaller than this share of it.
MOST_PASTED, LARGEST_PASTED = 8, 0.25
# Low-res logits in the smallest region that is trained, as many as a token has.
SMALLEST_TRAINED = 16


@dataclass(frozen=True)
class Photos:
    """All photos on the network's device, in squares of their longest side.

    Attributes:
        pixels: Nx3xSxS uint8.
        labels: NxAxSxS uint8 region numbers.
        sizes: Nx2 (height, width).
    """

    pixels: Tensor
    labels: Tensor
    sizes: Tensor

    @classmethod
    def on(cls, device: torch.device, photos: list[Photo]) -> Photos:
        side = max(max(photo.size) for photo in photos)
        pixels = np.zeros((len(photos), side, side, 3), np.uint8)
        labels = np.full((len(photos), MOST_ANNOTATORS, side, side), NOTHING, np.uint8)
        for photo, own_pixels, own_labels in zip(photos, pixels, labels, strict=True):
            height, width = photo.size
            own_pixels[:height, :width] = np.array(photo.pixels())
            people = photo.segmentations[:MOST_ANNOTATORS]
            own_labels[: len(people), :height, :width] = people
        return cls(
            torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(device),
            torch.from_numpy(labels).to(device),
            torch.tensor([photo.size for photo in photos], device=device),
        )

    def draw(self, count: int, landscape: bool | None) -> Tensor:
        """Numbers of photos at random, all of one orientation or (None) of both."""
        height, width = self.sizes.T
        chances = torch.ones_like(height) if landscape is None else (width > height) == landscape
        return torch.multinomial(chances.float(), count, replacement=True)


@dataclass(frozen=True)
class Views:
    """Images of one training step, all standing at one part of the canvas.

    Attributes:
        part: where.
        pixels: Bx3xhxw, normalised; zeros beyond the photo.
        labels: BxAx(h/4)x(w/4) region numbers.
    """

    part: Part
    pixels: Tensor
    labels: Tensor


def draw_part(grid: int, window: int) -> tuple[Part, bool | None]:
    """A part of the canvas, and the orientation of the photos that fill it (None: both).

    Most steps are on photos as they are in use, without the padding; others on the whole canvas
    or on some of its windows.
    """
    short = -(-grid * 2 // 3)
    kind = torch.rand(()).item()
    if kind < 0.45:
        return Part(0, 0, short + 1, grid), True
    if kind < 0.7:
        return Part(0, 0, grid, short + 1), False
    if kind < 0.85:
        return Part(0, 0, grid, grid), None
    side = window * int(torch.randint(2, grid // window + 1, ()))
    top, left = (window * int(torch.randint(0, (grid - side) // window + 1, ())) for _ in range(2))
    return Part(top, left, side, side), None


def draw_views(sam: Sam, photos: Photos, count: int) -> Views:
    """Draw ``count`` views of one training step."""
    encoder = sam.image_encoder
    part, landscape = draw_part(encoder.pos_embed.shape[1], clustering_window(encoder.blocks))
    chosen = photos.draw(count, landscape)
    placement = _Placement.draw(photos, chosen, part, encoder.img_size, landscape is not None)
    places, cells = (placement.on_photo(part, step) for step in (1, STRIDE))
    sizes = photos.sizes[chosen].T[:, :, None, None]
    pixels = _recoloured(_pixels(photos.pixels[chosen], *places, sizes))
    labels = torch.where(_inside(*cells, sizes)[:, None], _labels(photos, chosen, *cells), NOTHING)
    pixels, labels = _pasted(pixels, labels)
    pixels = (pixels - sam.pixel_mean) / sam.pixel_std
    return Views(part, pixels * _inside(*places, sizes)[:, None], labels)


@dataclass(frozen=True)
class _Placement:
    """How each of B views lies on its photo.

    Attributes:
        corner: Bx2 (x, y) photo pixels where the view's corner is, before it is turned.
        scale: Bx2 (across, down), network pixels per photo pixel.
        turn: radians about the view's middle.
        mirrored: left and right of the photo exchanged.
        widths: of the photos.
    """

    corner: Tensor
    scale: Tensor
    turn: Tensor
    mirrored: Tensor
    widths: Tensor

    @classmethod
    def draw(cls, photos: Photos, chosen: Tensor, part: Part, side: int, fits: bool) -> _Placement:
        device, count = chosen.device, len(chosen)
        sizes = photos.sizes[chosen].flip(1).float()  # (width, height)
        whole = torch.rand(count, device=device) < (WHOLE_SHARE if fits else 0.0)
        low, high = (torch.tensor(scale).log() for scale in SCALES)
        zoom = (low + (high - low) * torch.rand(count, device=device)).exp()
        stretch = (STRETCH * torch.randn(count, device=device) / 2).exp()
        zoom = torch.stack([zoom * stretch, zoom / stretch], dim=1)
        scale = side / sizes.amax(dim=1, keepdim=True) * torch.where(whole[:, None], 1.0, zoom)
        turn = torch.deg2rad(TURN * torch.randn(count, device=device))
        straight = whole | (torch.rand(count, device=device) > TURNED_SHARE)
        extent = torch.tensor([part.width, part.height], device=device) * PATCH
        slack = sizes - extent / scale
        corner = slack.clamp_min(0) * torch.rand(count, 2, device=device)
        mirrored = torch.rand(count, device=device) < 0.5
        return cls(corner, scale, turn * ~straight, mirrored, sizes[:, 0])

    def on_photo(self, part: Part, step: int) -> tuple[Tensor, Tensor]:
        """Bxhxw x and y on the photo of the middles of a part's cells of ``step`` pixels."""
        extents = [tokens * PATCH for tokens in (part.width, part.height)]
        across, down = (
            (torch.arange(extent // step, device=self.scale.device) + 0.5) * step - extent / 2
            for extent in extents
        )
        x, y = across[None, None, :], down[None, :, None]
        sine, cosine = self.turn.sin()[:, None, None], self.turn.cos()[:, None, None]
        scale, corner = self.scale[..., None, None], self.corner[..., None, None]
        column = (cosine * x - sine * y + extents[0] / 2) / scale[:, 0] + corner[:, 0]
        row = (sine * x + cosine * y + extents[1] / 2) / scale[:, 1] + corner[:, 1]
        flipped = self.widths[:, None, None] - column
        return torch.where(self.mirrored[:, None, None], flipped, column), row


def _inside(x: Tensor, y: Tensor, sizes: Tensor) -> Tensor:
    """Bxhxw: whether a place shows its photo, whose heights and widths are 2xBx1x1."""
    height, width = sizes
    return (x >= 0) & (x < width) & (y >= 0) & (y < height)


def _pixels(source: Tensor, x: Tensor, y: Tensor, sizes: Tensor) -> Tensor:
    """Bx3xhxw from 0 to 255, of Bx3xSxS uint8 photos at Bxhxw places."""
    # Beyond the photo its square is black, which is no neighbour to blend with.
    height, width = sizes
    x, y = torch.minimum(x, width - 0.5), torch.minimum(y, height - 0.5)
    grid = torch.stack([x, y], dim=-1) * (2 / source.shape[-1]) - 1
    return F.grid_sample(source.float(), grid, padding_mode="border", align_corners=False)


def _labels(photos: Photos, chosen: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """BxAxhxw region numbers at Bxhxw places, uint8."""
    side = photos.labels.shape[-1]
    column, row = (place.long().clamp(0, side - 1) for place in (x, y))
    rows = chosen[:, None, None, None] * MOST_ANNOTATORS
    people = torch.arange(MOST_ANNOTATORS, device=chosen.device)[None, :, None, None]
    return photos.labels.flatten()[((rows + people) * side + row[:, None]) * side + column[:, None]]


def _recoloured(pixels: Tensor) -> Tensor:
    """Brightness, contrast and colours changed, some views grey, blurred or noisy."""
    count = len(pixels)

    def drawn(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, 1, device=pixels.device)

    plain = pixels
    pixels = pixels * drawn(0.6, 1.4) * (1 + drawn(-0.1, 0.1).expand(-1, 3, -1, -1))
    middle = pixels.mean(dim=(1, 2, 3), keepdim=True)
    pixels = middle + (pixels - middle) * drawn(0.6, 1.4)
    # Each channel takes a little of the others; what is grey keeps its brightness.
    mixed = MIXED * torch.randn(count, 3, 3, device=pixels.device)
    mixed += torch.eye(3, device=pixels.device)
    pixels = ((mixed / mixed.sum(dim=2, keepdim=True)) @ pixels.flatten(2)).view_as(pixels)
    tint = 1 + 0.2 * (torch.rand(count, 3, 1, 1, device=pixels.device) - 0.5)
    grey = (pixels * pixels.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    saturation = torch.where(drawn(0, 1) < 0.1, 0.0, drawn(0.5, 1.5))
    pixels = (grey + (pixels - grey) * saturation) * tint
    blurred = F.avg_pool2d(pixels, 3, stride=1, padding=1, count_include_pad=False)
    pixels = torch.where(drawn(0, 1) < 0.15, blurred, pixels)
    noise = torch.randn_like(pixels) * drawn(-8, 8).clamp_min(0)
    return torch.where(drawn(0, 1) < 0.2, plain, (pixels + noise).clamp(0, 255))


def _pasted(pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Some regions of the next view put over some of the views (Ghiasi et al., 2012.07177)."""
    count, device = len(pixels), pixels.device
    donors = labels.roll(1, dims=0)
    person = torch.randint(MOST_ANNOTATORS - 1, (count, 1, 1, 1), device=device)
    people = (donors != NOTHING).flatten(2).any(dim=2).sum(dim=1).clamp_min(1)[:, None, None, None]
    donor = donors.gather(1, (person % people).expand(-1, 1, *donors.shape[2:]))[:, 0]
    areas = region_areas(donor[:, None])[:, 0, :NUMBERS]
    fitting = (areas >= SMALLEST_TRAINED) & (areas < LARGEST_PASTED * donor[0].numel())
    wanted = torch.randint(1, MOST_PASTED + 1, (count, 1), device=device)
    wanted = wanted * (torch.rand(count, 1, device=device) < PASTED_SHARE)
    chances = torch.rand(areas.shape, device=device) * fitting
    ranks = chances.argsort(dim=1, descending=True).argsort(dim=1)
    chosen = F.pad(fitting & (ranks < wanted), (0, 256 - NUMBERS))
    mask = chosen.gather(1, donor.flatten(1).long()).view(donor.shape)
    mask &= labels[:, 0] != NOTHING  # beyond the photo nothing is seen
    labels = torch.where(mask[:, None], (donor + NUMBERS)[:, None], labels)
    # Labels are coarser than pixels: their border is drawn straight, and softly.
    fine = F.interpolate(mask[:, None].float(), size=pixels.shape[2:], mode="bilinear")
    share = (1.5 * (fine - 0.5) + 0.5).clamp(0, 1)
    return torch.lerp(pixels, pixels.roll(1, dims=0), share), labels


def region_areas(labels: Tensor) -> Tensor:
    """BxAxhxw region numbers to BxAx256 counts; those of NOTHING are zero."""
    count, people = labels.shape[:2]
    first = torch.arange(count * people, device=labels.device).view(count, people, 1) * 256
    places = (first + labels.flatten(2)).flatten()
    areas = torch.bincount(places, minlength=count * people * 256).view(count, people, 256)
    areas[..., NOTHING] = 0
    return areas
