"""Our speed beside the original and what others run it with: same weights, same input, same run.

    python benchmarks/peers.py
    python benchmarks/peers.py --model vit_h --stages encoder --contestants original ours

Each contestant has a process of its own. They take turns (A B C, A B C, ...) after a first round
that is not counted; the table shows medians, and ratios of medians to the original. What they
return is compared first. Weights are random: times do not depend on them.
The original and OpenVINO are installed into folders of their own when they are missing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contestants import (
    CONTESTANTS,
    LOWER_PRECISION,
    OPENVINO,
    ROOT,
    convert,
    has_openvino,
    photo,
    serve,
)

from expedit_sam import SamAutomaticMaskGenerator, build_sam
from expedit_sam.model.sam import Sam

STAGES = {
    "encoder": "encoder, 1024 px",
    "decoder": "decoder, 64 points",
    "click": "one more click",
    "everything": "everything, 1200x1800, 32x32 points",
}
# How many times as many turns a stage takes: a click is short, and its times vary most.
TURNS = {"click": 10}
# Seconds between runs: threads of the last contestant wait actively for work a while longer.
PAUSE = 0.2
# These runs must return what the original returns.
EXACT = (
    "original",
    "transformers",
    "ONNX Runtime on the original",
    "OpenVINO on the original",
    "ours, exact",
)


def main() -> None:
    options = _options()
    if options.worker:
        serve(options)
        return
    install_peers(options.contestants)
    print(
        f"{options.model}, float32, {options.threads} threads, {platform.machine()}, "
        f"torch {torch.__version__}, {options.repeats} turns\n"
    )
    print("| stage | contestant | seconds | times the original's speed | peak memory |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        options.checkpoint = str(Path(folder) / "weights.pth")
        sam = new_network(options.model)
        torch.save(sam.state_dict(), options.checkpoint)
        options.thresholds = json.dumps(
            _thresholds(sam, photo()) if "everything" in options.stages else {}
        )
        del sam
        if "encoder" in options.stages:
            # In a process of its own, so that its memory counts for no contestant.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                pool.submit(convert, options, options.contestants).result()
        for stage in options.stages:
            _report(stage, options, Path(folder))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="vit_b", choices=("vit_b", "vit_l", "vit_h"))
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES)
    parser.add_argument(
        "--contestants",
        nargs="+",
        default=[name for name in CONTESTANTS if name not in LOWER_PRECISION],
        choices=CONTESTANTS,
        help="the original takes part always; converting vit_h needs 15 GB, int8 AVX-512 VNNI, and "
        "bfloat16 pays with amx_bf16",
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--repeats",
        type=int,
        default=3,
        help="turns; clicks take ten times as many",
    )
    for name in ("--worker", "--checkpoint", "--thresholds"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    return parser.parse_args()


def install_peers(contestants: Collection[str]) -> None:
    if not (ROOT / "tests" / ".original").exists():
        subprocess.run([sys.executable, ROOT / "tests" / "get_original.py"], check=True)
    if has_openvino(contestants) and not OPENVINO.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(OPENVINO)]
        subprocess.run([*pip, "openvino", "--no-deps"], check=True)
        subprocess.run([*pip, "openvino-telemetry", "--no-deps"], check=True)


def new_network(model: str) -> Sam:
    """Random weights, none of them zero, whose masks are as smooth and as steep as SAM's."""
    sam = build_sam(model, checkpoint="random")
    generator = torch.Generator().manual_seed(0)
    decoder: Any = sam.mask_decoder
    with torch.no_grad():
        for parameter in sam.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02, generator=generator)
        for number in (0, 3):
            weight = decoder.output_upscaling[number].weight
            weight.copy_(weight.mean((2, 3), keepdim=True).expand_as(weight))
        for head in decoder.output_hypernetworks_mlps:
            head.layers[-1].weight *= 300
            head.layers[-1].bias *= 300
    return sam


def _thresholds(sam: Sam, image: np.ndarray) -> dict[str, float]:
    """What a quarter of the masks pass by predicted IoU, and half of those by stability.

    Random weights know nothing of good masks; this is about what SAM's own thresholds let pass.
    """
    everything = SamAutomaticMaskGenerator(
        sam, 8, pred_iou_thresh=-1e9, stability_score_thresh=-1.0, box_nms_thresh=1.0
    )
    records = everything.generate(image[::4, ::4])
    iou = np.quantile([record["predicted_iou"] for record in records], 0.75)
    stable = [r["stability_score"] for r in records if r["predicted_iou"] > iou]
    return {"pred_iou_thresh": float(iou), "stability_score_thresh": float(np.median(stable))}


class Worker:
    """A contestant in its process."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, str(Path(__file__).with_name("peers.py")), f"--worker={name}"),
                *(f"--model={options.model}", f"--threads={options.threads}"),
                *(f"--checkpoint={options.checkpoint}", f"--thresholds={options.thresholds}"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Our package asks for large pages; who has another installed does not get them.
            env=os.environ | ({} if name.startswith("ours") else {"THP_MEM_ALLOC_ENABLE": "0"}),
        )

    def run(self, stage: str, name: str, file: Path | None = None) -> dict[str, float]:
        """Seconds and peak memory so far of one run, whose result goes to ``file``.

        Raises:
            SystemExit: the process has ended, most likely killed for want of memory.
        """
        assert self.process.stdin
        assert self.process.stdout
        time.sleep(PAUSE)
        order = json.dumps([stage, name, file and str(file)])
        answer = ""
        with suppress(BrokenPipeError):  # it ended while another had its turn
            print(order, file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{name} ended, perhaps for want of memory: see --contestants")
        return json.loads(answer)

    def close(self) -> None:
        self.process.communicate()


def _report(stage: str, options: argparse.Namespace, folder: Path) -> None:
    measure = _everything if stage == "everything" else _in_turns
    results = measure(stage, options, folder)
    reference = results["original"]
    digits = 3 if reference["seconds"] < 1 else 2
    for name, result in results.items():
        print(
            f"| {STAGES[stage]} | {name} | {result['seconds']:.{digits}f} | "
            f"{reference['seconds'] / result['seconds']:.2f} | "
            f"{result['peak_memory'] / 2**30:.2f} GB |",
            flush=True,
        )


def _in_turns(stage: str, options: argparse.Namespace, folder: Path) -> dict[str, dict]:
    """Medians of each run."""
    named = _present(stage, options)
    workers = {who: Worker(who, options) for who in named}
    runs = [(workers[who], name) for who, names in named.items() for name in names]
    for number, (worker, name) in enumerate(runs):
        worker.run(stage, name, folder / f"{number}.npy")
        if name in EXACT:
            _require_same(name, folder / f"{number}.npy", folder / "0.npy")
    number_of_turns = options.repeats * TURNS.get(stage, 1)
    turns = [[worker.run(stage, name) for worker, name in runs] for _ in range(number_of_turns)]
    for worker in workers.values():
        worker.close()
    return {
        name: {
            "seconds": statistics.median(turn[number]["seconds"] for turn in turns),
            "peak_memory": turns[-1][number]["peak_memory"],
        }
        for number, (_, name) in enumerate(runs)
    }


def _everything(stage: str, options: argparse.Namespace, folder: Path) -> dict[str, dict]:
    """Medians too, but of a fresh process for every run, so that peak memory is its own."""
    runs = [(who, name) for who, names in _present(stage, options).items() for name in names]
    turns: dict[str, list[dict[str, float]]] = {name: [] for _, name in runs}
    for who, name in runs * options.repeats:
        worker = Worker(who, options)
        turns[name].append(worker.run(stage, name, folder / f"{name}.json"))
        worker.close()
    if "ours, exact" in turns:
        masks, expected = (
            json.loads((folder / f"{name}.json").read_text())
            for name in ("ours, exact", "original")
        )
        _require_same_masks(masks, expected)
    return {
        name: {key: statistics.median(run[key] for run in some) for key in some[0]}
        for name, some in turns.items()
    }


def _present(stage: str, options: argparse.Namespace) -> dict[str, list[str]]:
    """Runs of a stage, by the contestants that were asked for; the original is always there."""
    present = {"original", *options.contestants}
    return {who: names for who, names in _names(stage).items() if who in present}


def _names(stage: str) -> dict[str, list[str]]:
    """Runs of a stage, by contestant; the original is first."""
    if stage == "everything":
        return {"original": ["original"], "ours": ["ours, exact", "ours, balanced"]}
    if stage != "encoder":
        return {"original": ["original"], "ours": ["ours, exact"]}
    presets = [f"ours, {name}" for name in ("quality", "balanced", "fast")]
    return {
        "original": ["original"],
        "transformers": ["transformers"],
        "onnx_runtime": ["ONNX Runtime on the original"],
        "openvino": ["OpenVINO on the original"],
        "ours": ["ours, exact", "ours, the fork's location 6 and 81 clusters", *presets],
        "openvino_bfloat16": ["OpenVINO on the original, bfloat16"],
        "ours_bfloat16": ["ours, exact, bfloat16", "ours, balanced, bfloat16"],
        "ours_int8": ["ours, exact, int8", "ours, balanced, int8"],
    }


def _require_same(name: str, file: Path, expected_file: Path) -> None:
    result, expected = np.load(file), np.load(expected_file)
    if result.dtype == bool:
        agreement = (result == expected).mean()
        assert agreement > 0.999, f"{name}: masks agree in {agreement:.4f} of the pixels"
    else:
        error = np.abs(result - expected).max() / np.abs(expected).max()
        assert error <= 1e-4, f"{name} differs by {error:.1e} of the largest value"


def _require_same_masks(ours: list[dict], theirs: list[dict]) -> None:
    from pycocotools import mask as coco

    assert abs(len(ours) - len(theirs)) <= 0.01 * len(theirs), "another number of masks"
    best = coco.iou(ours, theirs, [0] * len(theirs)).max(axis=0)
    same = float((best >= 0.999).mean())
    assert same >= 0.99, f"only {same:.3f} of the original's masks are among ours"
    print(f"| (masks of both: {len(theirs)}, equal: {same:.3f}) | | | | |", flush=True)


if __name__ == "__main__":
    assert set(CONTESTANTS) == set(_names("encoder"))
    main()
