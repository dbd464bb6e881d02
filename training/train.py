"""Train ``vit_s``, all of it, as SAM is trained, on BSDS500.

    python training/train.py --data data --out training/cache/run

Called again, it goes on from the last checkpoint in ``out``. A fresh run starts from ``--start``,
a checkpoint or the packaged file, else from DINOv2's encoder and a fresh decoder.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import math
import time
from pathlib import Path

import data
import torch
import warm_start
from evaluate import evaluate, image_embedding, summary
from packaged import load_start
from rounds import step_losses
from torch import Tensor, nn
from views import Photos, draw_views

from expedit_sam.model.architectures import ARCHITECTURES, new_sam
from expedit_sam.model.sam import Sam

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# A run reports and saves weights that are averaged over about this share of its steps so far, and
# over at most so many steps.
AVERAGED_SHARE, AVERAGED_STEPS = 0.3, 300


def parameter_groups(sam: Sam, options: argparse.Namespace) -> list[dict]:
    """Parameters with their ``factor`` of the learning rate, for AdamW.

    The encoder learns slower than the rest, and its early blocks slower than its late ones.
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


@torch.no_grad()
def start_neck(sam: Sam, photos: list[data.Photo]) -> None:
    """Fit the neck's start to the encoder's last tokens on every tenth photo."""
    encoder = sam.image_encoder
    seen: list[Tensor] = []
    hook = encoder.neck.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].permute(0, 2, 3, 1).flatten(0, 2)[::4])
    )
    for photo in photos[::10]:
        image_embedding(sam, photo)
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
        photos = data.read_photos(folder / "train")
        self.photos = Photos.on(torch.device(DEVICE), photos)
        self.val_photos = data.read_photos(folder / "val")[:: self.options.val_every]
        self.checkpoint = options.out / "checkpoint.pt"
        self.sam = self._started(photos).to(DEVICE)
        groups = parameter_groups(self.sam, options)
        self.parameters = [p for group in groups for p in group["params"]]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=options.weight_decay, fused=True)
        self.average = {k: v.clone() for k, v in self.sam.state_dict().items()}
        self.step, self.seconds = 0, 0.0
        if self.checkpoint.exists():
            self._resume()

    def _started(self, photos: list[data.Photo]) -> Sam:
        if self.checkpoint.exists():
            return new_sam(ARCHITECTURES["vit_s"])
        if self.options.start:
            sam = new_sam(ARCHITECTURES["vit_s"])
            load_start(sam, self.options.start)
            return sam
        sam = warm_start.warm_started_sam(self.options.data / "dinov2_vits14.safetensors")
        start_neck(sam.to(DEVICE), photos)
        return sam

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, map_location=DEVICE, weights_only=True)
        self.sam.load_state_dict(state["last"])
        self.average = state["model"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]

    def save(self) -> None:
        state = {
            "model": self.average,
            "last": self.sam.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        temporary = self.checkpoint.with_suffix(".part")
        torch.save(state, temporary)
        temporary.replace(self.checkpoint)

    def train_step(self) -> Tensor:
        """Loss and best-of-three IoU of one step, whose randomness depends on its number alone."""
        torch.manual_seed(self.options.seed * 1_000_003 + self.step)
        views = draw_views(self.sam, self.photos, self.options.images)
        loss, reached = step_losses(self.sam, views, self.options.prompts, self.options.drop_path)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        progress = self.seconds / (60 * self.options.minutes)
        rate = learning_rate(self.step, progress, self.options.learning_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimizer.step()
        self.step += 1
        steps = min(1 + AVERAGED_SHARE * self.step, AVERAGED_STEPS)
        states = self.sam.state_dict()
        averages = list(self.average.values())
        torch._foreach_lerp_(averages, [states[name] for name in self.average], 1 / steps)
        return torch.stack([loss.detach(), reached])

    def validate(self) -> dict[str, float]:
        """Figures of the averaged weights on every third region of the ``val_photos``."""
        averaged = copy.deepcopy(self.sam)
        averaged.load_state_dict(self.average)

        def embed(i: int) -> Tensor:
            return image_embedding(averaged, self.val_photos[i])

        return summary(evaluate(averaged, self.val_photos, embed, 3))

    def run(self) -> None:
        figures: list[Tensor] = []
        next_report = self.seconds + 60 * self.options.report_minutes
        while self.seconds < 60 * self.options.minutes:
            started = time.time()
            figures.append(self.train_step())
            if self.step % 50 == 0:
                loss, reached = torch.stack(figures[-50:]).mean(dim=0).tolist()
                print(
                    f"{self.step} {self.seconds:.0f} s loss {loss:.3f} iou {reached:.3f}",
                    flush=True,
                )
            self.seconds += time.time() - started
            if self.seconds >= next_report:
                self.report(figures)
                figures, next_report = [], self.seconds + 60 * self.options.report_minutes
        if figures:
            self.report(figures)

    def report(self, figures: list[Tensor]) -> None:
        self.save()
        loss, reached = torch.stack(figures).mean(dim=0).tolist()
        row = {
            "step": self.step,
            "seconds": round(self.seconds),
            "loss": round(loss, 4),
            "train_best": round(reached, 4),
        }
        row |= {name: value for name, value in self.validate().items() if name != "regions"}
        print(json.dumps(row), flush=True)
        curve = self.options.out / "curve.csv"
        fresh = not curve.exists()
        with curve.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            if fresh:
                writer.writeheader()
            writer.writerow(row)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="bsds500/ and DINOv2's weights")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint and curve")
    parser.add_argument("--start", type=Path, help="weights to start from")
    parser.add_argument("--images", type=int, default=4, help="views a step")
    parser.add_argument("--prompts", type=int, default=16, help="first prompts a view")
    parser.add_argument("--drop-path", type=float, default=0.1, help="of the last block")
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument(
        "--encoder-rate",
        type=float,
        default=0.04,
        help="learning rate of its last block over the others'; 0 trains neck and decoder alone",
    )
    parser.add_argument("--minutes", type=float, default=60, help="budget, and the cosine's length")
    parser.add_argument("--report-minutes", type=float, default=6)
    parser.add_argument(
        "--val-every", type=int, default=4, metavar="N", help="take every N-th val photo"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    Training(parse()).run()
