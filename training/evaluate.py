"""Mean IoU of a ``vit_s`` with human regions of bsds500/val, from a click, a box, three clicks.

    python training/evaluate.py --data data [--weights FILE] [--photos 100]

Every region of every annotator that covers at least 0.1 % of its photo counts once. The click is
the region's most interior point. IoU is taken at the photo's own resolution.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from data import Photo, most_interior_click, network_pixels, read_photos
from packaged import PACKAGED, read_sam
from torch import Tensor

from expedit_sam.evaluate.prompts import bounding_box
from expedit_sam.model.sam import Sam

PROMPTS_AT_ONCE = 32


@torch.no_grad()
def image_embedding(sam: Sam, photo: Photo) -> Tensor:
    """A photo's 1xCxhxw embedding."""
    pixels = network_pixels(photo, sam.image_encoder.img_size)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1).to(sam.device).float()
    return sam.image_encoder(sam.preprocess(tensor)[None])


def iou(masks: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union of PxMxHxW bool masks with PxHxW bool regions: PxM, 0 to 1."""
    truth = truth[:, None]
    return (masks & truth).sum((-2, -1)) / (masks | truth).sum((-2, -1)).clamp_min(1)


class PhotoTrial:
    """Prompts for P regions of one photo, decoded to masks of the photo's size (H, W).

    Arguments:
        sam: the network.
        embedding: 1xCxhxw, of the photo.
        photo: the photo.
        truth: PxHxW bool, the regions.
    """

    def __init__(self, sam: Sam, embedding: Tensor, photo: Photo, truth: np.ndarray) -> None:
        self.sam, self.embedding, self.size, self.truth = sam, embedding, photo.size, truth
        side = sam.image_encoder.img_size
        self.scale = side / max(photo.size)
        self.input_size = tuple(int(extent * self.scale + 0.5) for extent in photo.size)
        self.truth_tensor = torch.from_numpy(truth).to(sam.device)

    def decode(
        self,
        multimask: bool,
        points: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        boxes: np.ndarray | None = None,
        masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """PxMxHxW masks, PxM predicted IoU and Px1x4hx4w best low-res logits."""
        sparse, dense = self.embed(points, labels, boxes, masks)
        logits, predicted = self.sam.mask_decoder(
            image_embeddings=self.embedding,
            image_pe=self.sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
        )
        best = logits[torch.arange(len(logits)), predicted.argmax(dim=1)]
        return self.full_size(logits) > 0, predicted, best[:, None]

    def embed(
        self,
        points: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        boxes: np.ndarray | None = None,
        masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What the prompt encoder makes of P prompts in pixels of the photo."""
        device = self.sam.device
        clicks = None
        if points is not None:
            clicks = (
                torch.from_numpy(points * self.scale).float().to(device),
                torch.from_numpy(labels).to(device),
            )
        if boxes is not None:
            boxes = torch.from_numpy(boxes * self.scale).float().to(device)
        return self.sam.prompt_encoder(points=clicks, boxes=boxes, masks=masks)

    def full_size(self, logits: Tensor) -> Tensor:
        """PxMx4hx4w low-res logits to PxMxHxW."""
        return self.sam.postprocess_masks(logits, self.input_size, self.size)

    def clicks(self) -> tuple[np.ndarray, np.ndarray]:
        """Px1x2 points, each region's most interior, and Px1 labels."""
        points = np.array([[most_interior_click(mask)] for mask in self.truth])
        return points, np.ones(points.shape[:2], int)

    def boxes(self) -> np.ndarray:
        """Px4 boxes (x0, y0, x1, y1) around the regions."""
        return np.array([bounding_box(mask) for mask in self.truth])

    def one_click(self) -> tuple[dict[str, Tensor], Tensor, Tensor, np.ndarray]:
        """After one click on each region: P values of each figure, and what more clicks start from.

        Returns:
            the figures by name, and of the best mask by predicted IoU PxHxW bool, its Px1x4hx4w
            low-res logits, and the Px1x2 points clicked.
        """
        points, labels = self.clicks()
        masks, predicted, logits = self.decode(True, points, labels)
        reached = iou(masks, self.truth_tensor)
        rows, chosen = torch.arange(len(masks)), predicted.argmax(dim=1)
        figures = {
            "click_best": reached.amax(dim=1),
            "click_predicted": reached[rows, chosen],
            "click_predicted_iou": predicted[rows, chosen],
        }
        return figures, masks[rows, chosen], logits, points

    def box(self) -> Tensor:
        """P IoU of the single mask for each region's box."""
        masks, _, _ = self.decode(False, boxes=self.boxes())
        return iou(masks, self.truth_tensor)[:, 0]

    def more_clicks(self, masks: Tensor, logits: Tensor, points: np.ndarray, count: int) -> Tensor:
        """P IoU after ``count`` clicks, each in the middle of what is missing or too much."""
        labels = np.ones(points.shape[:2], int)
        for _ in range(count - 1):
            corrections = [
                _correction(mask, truth)
                for mask, truth in zip(masks.cpu().numpy(), self.truth, strict=True)
            ]
            new_points, new_labels = zip(*corrections, strict=True)
            points = np.concatenate([points, np.array(new_points)[:, None]], axis=1)
            labels = np.concatenate([labels, np.array(new_labels)[:, None]], axis=1)
            full, _, logits = self.decode(False, points, labels, masks=logits)
            masks = full[:, 0]
        return iou(masks[:, None], self.truth_tensor)[:, 0]


def _correction(mask: np.ndarray, truth: np.ndarray) -> tuple[tuple[float, float], int]:
    """A click in the larger of what is missing (1) and what is too much (0)."""
    missing, surplus = truth & ~mask, mask & ~truth
    if missing.sum() >= surplus.sum():
        return most_interior_click(missing if missing.any() else truth), 1
    return most_interior_click(surplus), 0


def trials(sam: Sam, photo: Photo, embedding: Tensor, every: int) -> Iterator[PhotoTrial]:
    """Each ``every``-th region of a photo, some at a time."""
    regions = photo.regions()[::every]
    for start in range(0, len(regions), PROMPTS_AT_ONCE):
        some = regions[start : start + PROMPTS_AT_ONCE]
        truth = np.stack([photo.segmentations[a] == number for a, number in some])
        yield PhotoTrial(sam, embedding, photo, truth)


@torch.no_grad()
def evaluate_photo(
    sam: Sam, photo: Photo, embedding: Tensor, every: int, three_clicks: bool
) -> dict[str, np.ndarray]:
    """Figures of each ``every``-th region of a photo."""
    parts = []
    for trial in trials(sam, photo, embedding, every):
        figures, masks, logits, points = trial.one_click()
        figures["box"] = trial.box()
        if three_clicks:
            figures["three_clicks"] = trial.more_clicks(masks, logits, points, 3)
        figures["area"] = trial.truth_tensor.float().mean((1, 2))
        parts.append(figures)
    return {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}


def evaluate(
    sam: Sam,
    photos: list[Photo],
    embed: Callable[[int], Tensor],
    every: int = 1,
    three_clicks: bool = False,
    map_photos: Callable[..., Iterable] = map,
) -> dict[str, np.ndarray]:
    """Figures of every ``every``-th region of all photos, by name one value a region.

    Arguments:
        sam: the network.
        photos: the photos.
        embed: gives the 1xCxhxw embedding of photo i.
        every: which regions.
        three_clicks: whether to go on to three clicks.
        map_photos: ``map``, or that of a pool of threads.
    """
    results = list(
        map_photos(
            lambda i: evaluate_photo(sam, photos[i], embed(i), every, three_clicks),
            range(len(photos)),
        )
    )
    return {name: np.concatenate([result[name] for result in results]) for name in results[0]}


def summary(figures: dict[str, np.ndarray]) -> dict[str, float]:
    """Means over regions, by size too, and the mean error of predicted IoU."""
    numbers = {name: float(values.mean()) for name, values in figures.items() if name != "area"}
    for name, low, high in (("small", 0, 0.01), ("medium", 0.01, 0.1), ("large", 0.1, 1.01)):
        chosen = (figures["area"] >= low) & (figures["area"] < high)
        numbers[f"click_best_{name}"] = float(figures["click_best"][chosen].mean())
    error = figures["click_predicted_iou"] - figures["click_predicted"]
    numbers["predicted_iou_mean_error"] = float(np.abs(error).mean())
    numbers["regions"] = len(error)
    return {name: round(value, 4) for name, value in numbers.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder that holds bsds500/")
    parser.add_argument("--weights", type=Path, default=PACKAGED)
    parser.add_argument("--photos", type=int, default=100)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every N-th region")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()

    sam = read_sam(options.weights).to("cuda" if torch.cuda.is_available() else "cpu")
    photos = read_photos(options.data / "bsds500" / "val")[: options.photos]
    with ThreadPoolExecutor(
        options.threads, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        figures = evaluate(
            sam,
            photos,
            lambda i: image_embedding(sam, photos[i]),
            options.every,
            three_clicks=True,
            map_photos=pool.map,
        )
    print(json.dumps(summary(figures), indent=2))


if __name__ == "__main__":
    main()
