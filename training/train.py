"""Train the neck, prompt encoder and mask decoder of ``vit_s`` as SAM trains them, on BSDS500.

    python training/train.py --data ../shared/data --out training/cache/448 --image-size 448

The frozen part of the image encoder runs once for every view of every photo; its tokens are kept
in ``out``. Called again, it goes on from the last checkpoint in ``out``.
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
from evaluate import evaluate, summary
from torch import Tensor, nn
from torch.nn import functional as F
from warm_start import start_neck, warm_started_sam

from expedit_sam.model.image_encoder import ImageEncoderViT, run_block
from expedit_sam.model.sam import Sam

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


# --- the frozen part of the encoder, and its tokens ------------------------------------------


def frozen_tokens(encoder: ImageEncoderViT, pixels: Tensor, trained_blocks: int) -> Tensor:
    tokens = encoder.patch_embed(pixels) + encoder.pos_embed
    for block in encoder.blocks[: len(encoder.blocks) - trained_blocks]:
        tokens = run_block(block, tokens, 0)
    return tokens


def embed_tokens(encoder: ImageEncoderViT, tokens: Tensor, trained_blocks: int) -> Tensor:
    """The rest of the encoder: 1xhxwxC tokens to a 1xCxhxw image embedding."""
    for block in encoder.blocks[len(encoder.blocks) - trained_blocks :]:
        tokens = run_block(block, tokens, 0)
    return encoder.neck(tokens.permute(0, 3, 1, 2))


def cached_tokens(
    sam: Sam, photos: list[data.Photo], views: int, path: Path, options: argparse.Namespace
) -> np.ndarray:
    """Photos x views x h x w x C float16 in a memory-mapped file, made where it is missing."""
    side = sam.image_encoder.img_size
    grid = side // 16
    shape = (len(photos), views, grid, grid, sam.image_encoder.pos_embed.shape[-1])
    if not path.exists():
        temporary = path.with_suffix(".part")
        store = np.lib.format.open_memmap(temporary, "w+", np.float16, shape)

        @torch.no_grad()
        def fill(place: tuple[int, int]) -> None:
            photo = photos[place[0]]
            pixels = data.view_pixels(photo, data.view_of(photo, *place), side)
            tensor = torch.from_numpy(pixels).permute(2, 0, 1).to(DEVICE).float()
            with torch.autocast(DEVICE, dtype=torch.bfloat16):
                tokens = frozen_tokens(
                    sam.image_encoder, sam.preprocess(tensor)[None], options.trained_blocks
                )
            store[place] = tokens[0].cpu().numpy()

        started = time.time()
        with thread_pool(options.threads) as pool:
            list(pool.map(fill, np.ndindex(shape[:2])))
        store.flush()
        temporary.replace(path)
        print(
            f"{path.name}: {shape[0] * shape[1]} views in {time.time() - started:.0f} s", flush=True
        )
    return np.load(path, mmap_mode="r")


def thread_pool(threads: int) -> ThreadPoolExecutor:
    """Threads that each run whole images: on a busy machine faster than splitting operations."""
    return ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))


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


def to_pixels(cells: np.ndarray) -> Tensor:
    """Label cells to network pixels, as prompts are given (the encoder adds half a pixel)."""
    pixels = (cells + 0.5) * data.PIXELS_PER_CELL - 0.5
    return torch.from_numpy(pixels).float().to(DEVICE)


def first_clicks(regions: data.Regions, random: np.random.Generator) -> Clicks:
    places = [
        data.most_interior_click(mask) if random.random() < 0.3 else data.random_click(mask, random)
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
    sam: Sam, tokens: Tensor, labels: np.ndarray, random: np.random.Generator, options
) -> tuple[Tensor, Tensor]:
    """Loss of all rounds of prompts on one image, and the first round's best-of-three IoU."""
    embedding = embed_tokens(sam.image_encoder, tokens, options.trained_blocks)
    regions = data.sample_regions(labels, options.prompts, random)
    targets = torch.from_numpy(regions.targets).to(DEVICE).float()
    height, width = targets.shape[1:]

    def decode(clicks: Clicks | None, boxes: Tensor | None, masks: Tensor | None):
        points = None
        if clicks is not None:
            points = (to_pixels(clicks.places), torch.from_numpy(clicks.labels).to(DEVICE))
        sparse, dense = sam.prompt_encoder(points=points, boxes=boxes, masks=masks)
        return sam.mask_decoder.predict_masks(
            embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense
        )

    by_box = random.random() < 0.25
    clicks = None if by_box else first_clicks(regions, random)
    boxes = None
    if by_box:
        jittered = np.array([data.jittered_box(mask, random) for mask in regions.cells])
        boxes = to_pixels(jittered)
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


def trained_parameters(sam: Sam, trained_blocks: int) -> dict[str, nn.Parameter]:
    encoder = sam.image_encoder
    sam.requires_grad_(False)
    blocks = encoder.blocks[len(encoder.blocks) - trained_blocks :]
    for module in (blocks, encoder.neck, sam.prompt_encoder, sam.mask_decoder):
        module.requires_grad_(True)
    return {name: p for name, p in sam.named_parameters() if p.requires_grad}


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
        self.sam = warm_started_sam(
            options.data / "dinov2_vits14.safetensors", image_size=options.image_size
        ).to(DEVICE)
        tail = f"{options.image_size}_{options.trained_blocks}.npy"
        self.tokens = cached_tokens(
            self.sam, self.photos, options.views, options.out / f"train_{tail}", options
        )
        self.val_tokens = cached_tokens(
            self.sam, self.val_photos, 1, options.out / f"val_{tail}", options
        )
        if options.trained_blocks == 0:
            sample = np.array(self.tokens[::4, 0, ::2, ::2], np.float32)
            start_neck(
                self.sam.image_encoder.neck, torch.from_numpy(sample).flatten(0, 2).to(DEVICE)
            )
        self.trained = trained_parameters(self.sam, options.trained_blocks)
        self.optimizer = torch.optim.AdamW(self.trained.values(), weight_decay=0.01)
        self.step, self.seconds = 0, 0.0
        self.checkpoint = options.out / "checkpoint.pt"
        self.pool = thread_pool(options.threads)
        if self.checkpoint.exists():
            self._resume()
        elif options.start:
            state = torch.load(options.start, map_location=DEVICE, weights_only=True)["model"]
            self.sam.load_state_dict(state, strict=False)

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, map_location=DEVICE, weights_only=True)
        self.sam.load_state_dict(state["model"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]

    def save(self) -> None:
        """Every name the encoder's warm start does not already give, so the file stays small."""
        state = {
            "model": {name: p.detach() for name, p in self.trained.items()}
            | {name: b for name, b in self.sam.named_buffers() if "gaussian" in name},
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        temporary = self.checkpoint.with_suffix(".part")
        torch.save(state, temporary)
        temporary.replace(self.checkpoint)

    def image_gradients(self, index: int) -> tuple[list[Tensor], float, float]:
        """One image of the current step; its randomness depends on step and index alone."""
        random = np.random.default_rng([self.options.seed, self.step, index])
        photo = int(random.integers(len(self.photos)))
        view = int(random.integers(self.tokens.shape[1]))
        labels = data.view_labels(
            self.photos[photo],
            data.view_of(self.photos[photo], photo, view),
            self.options.image_size,
        )
        tokens = torch.from_numpy(np.array(self.tokens[photo, view]))[None].to(DEVICE).float()
        loss, reached = image_losses(self.sam, tokens, labels, random, self.options)
        gradients = torch.autograd.grad(loss, list(self.trained.values()), allow_unused=True)
        return gradients, loss.item(), reached.item()

    def train_step(self) -> tuple[float, float]:
        """Mean loss and best-of-three IoU of one step."""
        images = self.options.images
        results = list(self.pool.map(self.image_gradients, range(images)))
        for i, parameter in enumerate(self.trained.values()):
            parts = [gradients[i] for gradients, _, _ in results if gradients[i] is not None]
            parameter.grad = sum(parts) / images if parts else None
        nn.utils.clip_grad_norm_(self.trained.values(), 1.0)
        rate = learning_rate(
            self.step, self.seconds / (60 * self.options.minutes), self.options.learning_rate
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.step += 1
        return sum(r[1] for r in results) / images, sum(r[2] for r in results) / images

    def validate(self) -> dict[str, float]:
        """Figures on every fourth val photo and third region."""

        def embed(i: int) -> Tensor:
            tokens = torch.from_numpy(np.array(self.val_tokens[i, 0]))[None].to(DEVICE).float()
            with torch.no_grad():
                return embed_tokens(self.sam.image_encoder, tokens, self.options.trained_blocks)

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
            "image_size": self.options.image_size,
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
    parser.add_argument("--start", type=Path, help="weights to start from, a checkpoint")
    parser.add_argument("--image-size", type=int, default=672)
    parser.add_argument("--trained-blocks", type=int, default=0, help="last blocks trained too")
    parser.add_argument("--views", type=int, default=8, help="views of each photo")
    parser.add_argument("--images", type=int, default=4, help="images a step")
    parser.add_argument("--prompts", type=int, default=10, help="regions an image")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--minutes", type=float, default=60, help="budget, and the cosine's length")
    parser.add_argument("--report-minutes", type=float, default=6)
    parser.add_argument("--threads", type=int, default=1 if DEVICE == "cuda" else 2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    training = Training(parse())
    training.run()
    training.pool.shutdown()
