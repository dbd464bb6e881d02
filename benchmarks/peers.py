"""Our speed beside the original, transformers and OpenVINO: same weights, same input, same run.

    python benchmarks/peers.py
    python benchmarks/peers.py --model vit_h --stages encoder

Contestants take turns (A A B B C C A A ...), the second run of a turn counts; the table shows
medians, and ratios of medians to the original. What they return is compared first. Weights are
random: times do not depend on them.
The original and OpenVINO are installed into folders of their own when they are missing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).parent.parent
OPENVINO = Path(__file__).parent / ".openvino"
sys.path[:0] = [str(ROOT), str(OPENVINO)]

from expedit_sam import (  # noqa: E402
    Hourglass,
    SamAutomaticMaskGenerator,
    SamPredictor,
    build_sam,
)
from expedit_sam.hourglass.published import DEFAULTS, published_setting  # noqa: E402
from expedit_sam.images import read_image  # noqa: E402
from expedit_sam.model.sam import Sam  # noqa: E402

STAGES = ("encoder", "decoder", "click", "everything")
PHOTO = ROOT / "docs" / "images" / "coffee.jpg"
PHOTO_SIZE = (1200, 1800)
FORK_SETTING = {"hourglass_clustering_location": 6, "hourglass_num_cluster": 81}

Contestants = dict[str, Callable[[], Any]]


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    if options.worker:
        print(json.dumps(_run_everything(options)))
        return
    _install_peers()
    print(
        f"{options.model}, float32, {options.threads} threads, {platform.machine()}, "
        f"torch {torch.__version__}, {options.repeats} turns\n"
    )
    print("| stage | contestant | seconds | times the original's speed |")
    print("| --- | --- | --- | --- |")
    ours, original = _networks(options.model)
    with torch.no_grad():
        if "encoder" in options.stages:
            _report("encoder, 1024 px", _encoders(ours, original, options), options.repeats)
        if "decoder" in options.stages:
            _report("decoder, 64 points", _decoders(ours, original), options.repeats)
        if "click" in options.stages:
            _report("one more click", _clicks(ours, original), options.repeats)
    del original
    if "everything" in options.stages:
        _report_everything(ours, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="vit_b", choices=("vit_b", "vit_l", "vit_h"))
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=3)
    for name in ("--worker", "--checkpoint", "--thresholds"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    return parser.parse_args()


def _install_peers() -> None:
    if not (ROOT / "tests" / ".original").exists():
        subprocess.run([sys.executable, ROOT / "tests" / "get_original.py"], check=True)
    if not OPENVINO.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(OPENVINO)]
        subprocess.run([*pip, "openvino", "--no-deps"], check=True)
        subprocess.run([*pip, "openvino-telemetry", "--no-deps"], check=True)


def _networks(model: str) -> tuple[Sam, Any]:
    """Ours and the original's network with the same random weights, none of them zero."""
    from tests.original import original_modules

    ours = build_sam(model, checkpoint="random")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in ours.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02, generator=generator)
    original = original_modules()[""].sam_model_registry[model]()
    original.load_state_dict(ours.state_dict())
    return ours, original.eval()


def _encoders(ours: Sam, original: Any, options: argparse.Namespace) -> Contestants:
    pixels = torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(0))

    def with_setting(setting: Hourglass | str | None) -> Callable[[], Tensor]:
        from expedit_sam import expedite

        return lambda: expedite(ours, setting).image_encoder(pixels)

    contestants: Contestants = {
        "original": lambda: original.image_encoder(pixels),
        "transformers": _transformers(ours, options.model, pixels),
        "OpenVINO on the original": _openvino(original, pixels, options.threads),
        "ours, exact": with_setting(None),
    }
    expected = contestants["original"]()
    for name, run in contestants.items():
        _require_close(name, run(), expected)
    return contestants | {
        "ours, the fork's location 6 and 81 clusters": with_setting(
            published_setting({**DEFAULTS, **FORK_SETTING})
        ),
        **{f"ours, {name}": with_setting(name) for name in ("quality", "balanced", "fast")},
    }


def _transformers(ours: Sam, model: str, pixels: Tensor) -> Callable[[], Tensor]:
    from transformers import SamVisionConfig
    from transformers.models.sam.modeling_sam import SamVisionEncoder

    from expedit_sam.weights.transformers_format import to_transformers

    encoder = ours.image_encoder
    config = SamVisionConfig(
        hidden_size=encoder.pos_embed.shape[-1],
        num_hidden_layers=len(encoder.blocks),
        num_attention_heads=encoder.blocks[0].attn.num_heads,
        global_attn_indexes=[i for i, b in enumerate(encoder.blocks) if b.window_size == 0],
        mlp_dim=encoder.blocks[0].mlp.lin1.out_features,
        attn_implementation="sdpa",
    )
    theirs = SamVisionEncoder(config).eval()
    state = to_transformers(ours.state_dict())
    prefix = "vision_encoder."
    theirs.load_state_dict(
        {name.removeprefix(prefix): w for name, w in state.items() if name.startswith(prefix)}
    )
    return lambda: theirs(pixels).last_hidden_state


def _openvino(original: Any, pixels: Tensor, threads: int) -> Callable[[], Tensor]:
    import openvino

    converted = openvino.convert_model(original.image_encoder, example_input=pixels)
    compiled = openvino.Core().compile_model(
        converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    )
    return lambda: torch.as_tensor(compiled(pixels.numpy())[0])


def _decoders(ours: Sam, original: Any) -> Contestants:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 256, 64, 64, generator=generator)
    points = torch.rand(64, 1, 2, generator=generator) * 1024
    labels = torch.ones(64, 1)

    def decode(sam: Any) -> Tensor:
        sparse, dense = sam.prompt_encoder((points, labels), None, None)
        return sam.mask_decoder(image, sam.prompt_encoder.get_dense_pe(), sparse, dense, True)[0]

    contestants: Contestants = {
        "original": lambda: decode(original),
        "ours": lambda: decode(ours),
    }
    _require_close("ours", contestants["ours"](), contestants["original"]())
    return contestants


def _clicks(ours: Sam, original: Any) -> Contestants:
    from tests.original import original_modules

    height, width = PHOTO_SIZE
    predictors = {
        "original": original_modules()[""].SamPredictor(original),
        "ours": SamPredictor(ours),
    }
    embedding = torch.randn(1, 256, 64, 64, generator=torch.Generator().manual_seed(0))
    for predictor in predictors.values():
        # As after set_image, without the wait.
        predictor.features, predictor.is_image_set = embedding, True
        predictor.original_size = (height, width)
        predictor.input_size = predictor.transform.get_preprocess_shape(height, width, 1024)
    point, label = np.array([[700.0, 500.0]]), np.array([1])
    contestants: Contestants = {
        name: lambda predictor=predictor: predictor.predict(point, label)
        for name, predictor in predictors.items()
    }
    agreement = (contestants["ours"]()[0] == contestants["original"]()[0]).mean()
    assert agreement > 0.999, f"masks agree in {agreement:.4f} of the pixels"
    return contestants


def _require_close(name: str, result: Tensor, expected: Tensor) -> None:
    error = ((result - expected).abs().max() / expected.abs().max()).item()
    assert error <= 1e-4, f"{name} differs by {error:.1e} of the largest value"


def _report(stage: str, contestants: Contestants, repeats: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            run()  # in use a network follows itself, not its peers
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, median in medians.items():
        print(
            f"| {stage} | {name} | {median:.2f} | {medians['original'] / median:.2f} |", flush=True
        )


def _report_everything(sam: Sam, options: argparse.Namespace) -> None:
    """Each contestant in a process of its own, so that peak memory is its own."""
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "weights.pth"
        torch.save(sam.state_dict(), checkpoint)
        thresholds = json.dumps(_thresholds(sam, _photo()))
        del sam
        for name in ("original", "exact", "balanced"):
            output = subprocess.run(
                [
                    *(sys.executable, __file__, f"--worker={name}", f"--checkpoint={checkpoint}"),
                    *(f"--model={options.model}", f"--threads={options.threads}"),
                    f"--thresholds={thresholds}",
                ],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            ).stdout
            results[name] = json.loads(output.splitlines()[-1])
    reference = results["original"]
    _require_same_masks(results["exact"]["masks"], reference["masks"])
    for name, result in results.items():
        who = name if name == "original" else f"ours, {name}"
        print(
            f"| everything, 1200x1800, 32x32 points, {len(result['masks'])} masks | {who} | "
            f"{result['seconds']:.1f} | {reference['seconds'] / result['seconds']:.2f} |"
        )
        memory = result["peak_memory"] / reference["peak_memory"]
        print(
            f"| its peak memory | {who} | {result['peak_memory'] / 2**30:.2f} GB | "
            f"{memory:.2f} of the original's |",
            flush=True,
        )


def _run_everything(options: argparse.Namespace) -> dict[str, Any]:
    settings = json.loads(options.thresholds) | {"output_mode": "coco_rle"}
    if options.worker == "original":
        from tests.original import original_modules

        package = original_modules()[""]
        sam = package.sam_model_registry[options.model](checkpoint=options.checkpoint)
        generator = package.SamAutomaticMaskGenerator(sam, **settings)
    else:
        sam = build_sam(options.model, checkpoint=options.checkpoint, hourglass=options.worker)
        generator = SamAutomaticMaskGenerator(sam, **settings)
    image = _photo()
    started = time.perf_counter()
    records = generator.generate(image)
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "peak_memory": _peak_memory(),
        "masks": [record["segmentation"] for record in records],
    }


def _photo() -> np.ndarray:
    from PIL import Image

    height, width = PHOTO_SIZE
    return np.asarray(Image.fromarray(read_image(PHOTO)).resize((width, height)))


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


def _require_same_masks(ours: list[dict], theirs: list[dict]) -> None:
    from pycocotools import mask as coco

    assert abs(len(ours) - len(theirs)) <= 0.01 * len(theirs), "another number of masks"
    best = coco.iou(ours, theirs, [0] * len(theirs)).max(axis=0)
    same = float((best >= 0.999).mean())
    assert same >= 0.99, f"only {same:.3f} of the original's masks are among ours"


def _peak_memory() -> int:
    """Bytes that this process held at most (Linux's VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


if __name__ == "__main__":
    main()
