"""Train ``vit_s``, all of it, as SAM is trained, on BSDS500.

    python training/train.py --data ../shared/data --out training/cache/run

Called again, it goes on from the last checkpoint in ``out``. A fresh run starts from ``--start``,
a checkpoint or the packaged file, else from DINOv2's encoder and a fresh decoder.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import data
import numpy as np
import torch
import warm_start
from encoder import Part, embed_part
from evaluate import evaluate, image_embedding, summary
from packaged import load_start
from torch import Tensor, nn
from torch.nn import functional as F

from expedit_sam.model.image_encoder import clustering_window
from expedit_sam.model.sam import Sam

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Windows along each side of the part of the canvas that most steps train on.
PART_WINDOWS = 2
# A token of the shortest side of a cut, and cells along each side of a token.
SHORTEST_CUT = 8
CELLS_PER_TOKEN = 8


# --- losses ----------------------------------------------------------------------------------


def mask_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """PxMxhxw logits and Pxhxw targets to PxM: 5 focal + dice + 0.5 binary cross-entropy."""
    targets = targets[:, None].expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    focal = ((1 - (-entropy).exp()) ** 2 * entropy).mean((-2, -1))
    chance = logits.sigmoid()
    overlap = (chance * targets).sum((-2, -1))
    dice = 1 - (2 * overlap + 1) / (chance.sum((-2, -1)) + targets.sum((-2, -1)) + 1)
    return 5 * focal + dice + 0.5 * entropy.mean((-2, -1))


def reached_iou(logits: Tensor, targets: Tensor) -> Tensor:
    masks, truth = logits > 0, targets[:, None] > 0
    return (masks & truth).sum((-2, -1)) / (masks | truth).sum((-2, -1)).clamp_min(1)


def prompt_loss(
    logits: Tensor, predicted: Tensor, targets: Tensor, clear: bool
) -> tuple[Tensor, Tensor]:
    """Loss of four masks for each prompt, and the best-of-three IoU reached (PxM to scalars).

    The single mask (index 0) is for clear prompts (boxes, several clicks) and learns less from
    ambiguous ones.
    """
    losses = mask_losses(logits, targets)
    reached = reached_iou(logits, targets)
    three = losses[:, 1:]
    loss = (
        three.amin(dim=1).mean()
        + 0.1 * three.mean()
        + (1.0 if clear else 0.3) * losses[:, 0].mean()
    )
    loss = loss + F.mse_loss(predicted, reached)
    return loss, reached[:, 1:].amax(dim=1).mean()


# --- one image of a step ---------------------------------------------------------------------


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
    return torch.from_numpy(pixels).float().to(DEVICE)


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


@dataclass
class Sample:
    """One image of a step.

    Attributes:
        part: where on the canvas it stands.
        pixels: 1x3x16hx16w, normalised and padded.
        labels: annotators x h x w region numbers, on the label grid.
    """

    part: Part
    pixels: Tensor
    labels: np.ndarray


def draw_part(sam: Sam, whole_share: float, random: np.random.Generator) -> Part:
    """The whole canvas, or ``PART_WINDOWS`` windows along each side."""
    encoder = sam.image_encoder
    grid = encoder.pos_embed.shape[1]
    if random.random() < whole_share:
        return Part(0, 0, grid, grid)
    window = clustering_window(encoder.blocks)
    starts = range(0, grid - window, window)
    top, left = (window * int(random.integers(len(starts))) for _ in range(2))
    side = PART_WINDOWS * window
    return Part(top, left, min(side, grid - top), min(side, grid - left))


def draw_sample(
    sam: Sam, photos: list[data.Photo], whole_share: float, random: np.random.Generator
) -> Sample:
    side, patch = sam.image_encoder.img_size, sam.image_encoder.patch_embed.proj.stride[0]
    photo = photos[int(random.integers(len(photos)))]
    part = draw_part(sam, whole_share, random)
    size = (part.height * patch, part.width * patch)
    view = data.random_view(photo, size, side, random)
    seen = data.view_pixels(photo, view)[: size[0], : size[1]]
    pixels = (torch.from_numpy(seen).permute(2, 0, 1).to(DEVICE) - sam.pixel_mean) / sam.pixel_std
    padding = (0, size[1] - seen.shape[1], 0, size[0] - seen.shape[0])
    labels = data.view_labels(photo, view)[:, : size[0] // 2, : size[1] // 2]
    return Sample(part, F.pad(pixels, padding)[None], labels)


def draw_cut(labels: np.ndarray, random: np.random.Generator) -> Part:
    """A square of tokens around a region drawn from all that ``labels`` show, within them.

    Small regions are most of all regions, and in a cut they weigh as large ones do.
    """
    extents = [-(-extent // CELLS_PER_TOKEN) for extent in labels.shape[1:]]
    (cells,) = data.sample_regions(labels, 1, random).cells
    box = np.array(data.box_of(cells))[[1, 0, 3, 2]] // CELLS_PER_TOKEN
    starts, stops = box[:2].astype(int), box[2:].astype(int) + 1
    longest = min(extents)
    shortest = min(max(SHORTEST_CUT, *(stops - starts)), longest)
    side = round(shortest * (longest / shortest) ** random.random() ** 2)
    top, left = (
        int(random.integers(max(0, stop - side), max(0, min(start, extent - side)) + 1))
        if stop - start <= side
        else int(random.integers(0, extent - side + 1))
        for start, stop, extent in zip(starts, stops, extents, strict=True)
    )
    return Part(top, left, side, side)


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
    targets = torch.from_numpy(regions.targets).to(DEVICE).float()
    height, width = targets.shape[1:]
    patch = sam.image_encoder.patch_embed.proj.stride[0]
    corner = (cut.left * patch, cut.top * patch)
    positions = cut.cut(sam.prompt_encoder.get_dense_pe())

    def decode(clicks: Clicks | None, boxes: Tensor | None, masks: Tensor | None):
        points = None
        if clicks is not None:
            places = to_pixels(clicks.places, corner)
            points = (places, torch.from_numpy(clicks.labels).to(DEVICE))
        sparse, dense = sam.prompt_encoder(points=points, boxes=boxes, masks=masks)
        dense = dense[..., : cut.height, : cut.width]
        return sam.mask_decoder.predict_masks(embedding, positions, sparse, dense)

    by_box = random.random() < 0.25
    clicks = None if by_box else first_clicks(regions, random)
    boxes = None
    if by_box:
        jittered = np.array([data.jittered_box(mask, random) for mask in regions.cells])
        boxes = to_pixels(jittered, corner)
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


# --- the loop --------------------------------------------------------------------------------


def parameter_groups(sam: Sam, options: argparse.Namespace) -> list[dict]:
    """The encoder learns slower than the rest, and its early blocks slower than its late ones.

    Relative positions start at zero, and so learn five times as fast as the last block.
    """
    encoder = sam.image_encoder
    layers: list[tuple[int, nn.Module]] = [(0, encoder.patch_embed)]
    layers += [(i + 1, block) for i, block in enumerate(encoder.blocks)]
    slow = {
        parameter: options.encoder_rate * 0.85 ** (len(encoder.blocks) - layer)
        for layer, module in layers
        for parameter in module.parameters()
    }
    for name, parameter in encoder.named_parameters():
        if "rel_pos" in name:
            slow[parameter] = 5 * options.encoder_rate
    slow[encoder.pos_embed] = options.encoder_rate * 0.85 ** len(encoder.blocks)
    groups: dict[float, list] = {}
    for parameter in sam.parameters():
        factor = slow.get(parameter, 1.0)
        parameter.requires_grad_(factor > 0)
        if factor > 0:
            groups.setdefault(factor, []).append(parameter)
    return [{"params": parameters, "factor": factor} for factor, parameters in groups.items()]


def thread_pool(threads: int) -> ThreadPoolExecutor:
    """Threads that each run whole images: on a busy machine faster than splitting operations."""
    return ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))


@torch.no_grad()
def start_neck(sam: Sam, photos: list[data.Photo], pool: ThreadPoolExecutor) -> None:
    """Fit the neck's start to the encoder's last tokens on every tenth photo."""
    encoder = sam.image_encoder
    seen: list[Tensor] = []
    hook = encoder.neck.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].permute(0, 2, 3, 1).flatten(0, 2)[::4])
    )
    list(pool.map(lambda photo: image_embedding(sam, photo), photos[::10]))
    hook.remove()
    warm_start.start_neck(encoder.neck, torch.cat(seen))


def learning_rate(step: int, progress: float, peak: float, warm_up: int = 100) -> float:
    """Linear warm-up in steps, then half a cosine over the time budget, to 2 % of the peak."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return peak * min(1.0, (step + 1) / warm_up) * (0.02 + 0.98 * cosine)


class Training:
    """The state of a run: network, optimizer, step and the seconds trained so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        options.out.mkdir(parents=True, exist_ok=True)
        folder = options.data / "bsds500"
        self.photos = data.read_photos(folder / "train")
        self.val_photos = data.read_photos(folder / "val")[::4]
        self.pool = thread_pool(options.threads)
        self.sam = warm_start.warm_started_sam(options.data / "dinov2_vits14.safetensors").to(
            DEVICE
        )
        self.checkpoint = options.out / "checkpoint.pt"
        if options.start and not self.checkpoint.exists():
            load_start(self.sam, options.start)
        elif not self.checkpoint.exists():
            start_neck(self.sam, self.photos, self.pool)
        groups = parameter_groups(self.sam, options)
        self.parameters = [p for group in groups for p in group["params"]]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.01, fused=True)
        self.step, self.seconds = 0, 0.0
        if self.checkpoint.exists():
            self._resume()

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, map_location=DEVICE, weights_only=True)
        self.sam.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]

    def save(self) -> None:
        state = {
            "model": self.sam.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        temporary = self.checkpoint.with_suffix(".part")
        torch.save(state, temporary)
        temporary.replace(self.checkpoint)

    def image_gradients(self, index: int) -> tuple[tuple[Tensor, ...], float, float]:
        """One image of the current step; its randomness depends on step and index alone."""
        random = np.random.default_rng([self.options.seed, self.step, index])
        sample = draw_sample(self.sam, self.photos, self.options.whole_share, random)
        loss, reached = image_losses(self.sam, sample, random, self.options)
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        return gradients, loss.item(), reached.item()

    def train_step(self) -> tuple[float, float]:
        """Mean loss and best-of-three IoU of one step."""
        images = self.options.images
        results = list(self.pool.map(self.image_gradients, range(images)))
        for i, parameter in enumerate(self.parameters):
            parts = [gradients[i] for gradients, _, _ in results if gradients[i] is not None]
            parameter.grad = sum(parts) / images if parts else None
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        rate = learning_rate(
            self.step, self.seconds / (60 * self.options.minutes), self.options.learning_rate
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimizer.step()
        self.step += 1
        return sum(r[1] for r in results) / images, sum(r[2] for r in results) / images

    def validate(self) -> dict[str, float]:
        """Figures on every fourth val photo and third region."""

        def embed(i: int) -> Tensor:
            return image_embedding(self.sam, self.val_photos[i])

        return summary(evaluate(self.sam, self.val_photos, embed, 3, map_photos=self.pool.map))

    def run(self) -> None:
        figures: list[tuple[float, float]] = []
        next_report = self.seconds + 60 * self.options.report_minutes
        while self.seconds < 60 * self.options.minutes:
            started = time.time()
            figures.append(self.train_step())
            self.seconds += time.time() - started
            if self.step % 50 == 0:
                loss, reached = np.mean(figures[-50:], axis=0)
                print(
                    f"{self.step} {self.seconds:.0f} s loss {loss:.3f} iou {reached:.3f}",
                    flush=True,
                )
            if self.seconds >= next_report:
                self.report(figures)
                figures, next_report = [], self.seconds + 60 * self.options.report_minutes
        if figures:
            self.report(figures)

    def report(self, figures: list[tuple[float, float]]) -> None:
        self.save()
        loss, reached = np.mean(figures, axis=0)
        row = {
            "step": self.step,
            "seconds": round(self.seconds),
            "loss": round(loss, 4),
            "train_best": round(reached, 4),
        }
        row |= {name: value for name, value in self.validate().items() if name != "regions"}
        print(json.dumps(row), flush=True)
        fresh = not self.options.curve.exists()
        with self.options.curve.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if fresh:
                writer.writeheader()
            writer.writerow(row)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="bsds500/ and DINOv2's weights")
    parser.add_argument("--out", type=Path, required=True, help="tokens and checkpoint")
    parser.add_argument("--curve", type=Path, default=Path(__file__).with_name("curve.csv"))
    parser.add_argument("--start", type=Path, help="weights to start from")
    parser.add_argument(
        "--whole-share", type=float, default=0.0, help="share of images on the whole canvas"
    )
    parser.add_argument("--images", type=int, default=4, help="images a step")
    parser.add_argument("--cuts", type=int, default=6, help="cuts of an image with own prompts")
    parser.add_argument("--prompts", type=int, default=8, help="regions of an image, and of a cut")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument(
        "--encoder-rate",
        type=float,
        default=0.04,
        help="learning rate of its last block over the others'; 0 trains neck and decoder alone",
    )
    parser.add_argument("--minutes", type=float, default=60, help="budget, and the cosine's length")
    parser.add_argument("--report-minutes", type=float, default=6)
    parser.add_argument("--threads", type=int, default=1 if DEVICE == "cuda" else 2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    training = Training(parse())
    training.run()
    training.pool.shutdown()
