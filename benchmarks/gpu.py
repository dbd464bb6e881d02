"""Image encoders on one GPU: the original, transformers and ours, in float32 and bfloat16.

The original and ours run compiled too (PyPI's ``segment-anything-fast`` is another network,
FastSAM; the acceleration of that name is the original, compiled, in bfloat16).

    python benchmarks/gpu.py
    python benchmarks/gpu.py --models vit_h --batches 8

Prints milliseconds a batch, images a second, peak memory, the speed beside the original in float32
and the share of what the measured rate of matrix products would allow. Each runs once uncounted
(which compiles the compiled ones), then so many times in a row; medians. Exact ones are compared
with the original first.
``--device cpu`` runs the same without a GPU, to see that it works.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from contestants import transformers_encoder  # first: it finds the tests' original package
from peers import install_peers, new_network
from torch import Tensor

from expedit_sam import expedite
from expedit_sam.evaluate.costs import encoder_cost
from expedit_sam.hourglass.settings import PRESETS
from expedit_sam.model.compiled import compile_encoder
from tests.original import original_modules

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# The largest difference from the original in float32, over its largest value.
CLOSE = {"float32": 1e-3, "bfloat16": 5e-2}
CONTESTANTS = ["original", "original, compiled", "transformers", "ours", "ours, compiled"]


def main() -> None:
    options = _options()
    device = torch.device(options.device)
    install_peers(["original"])
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    rates = {precision: _matrix_rate(device, dtype) for precision, dtype in DTYPES.items()}
    print(f"{name}, torch {torch.__version__}, {options.repeats} runs each")
    for precision, rate in rates.items():
        print(f"matrix products in {precision}: {rate / 1e12:.1f} TFLOP/s")
    print(
        "\n| model | batch | contestant | ms a batch | images/s | times the original "
        "| of the floor | peak memory |\n| --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    for model in options.models:
        for batch in options.batches:
            _report(model, batch, device, rates, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    models = ("vit_b", "vit_l", "vit_h")
    parser.add_argument("--models", nargs="+", default=["vit_b", "vit_h"], choices=models)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--precisions", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument(
        "--contestants", nargs="+", default=CONTESTANTS, choices=CONTESTANTS, metavar="NAME"
    )
    parser.add_argument("--device", default="cuda")
    return parser.parse_args()


def _matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    times = [_seconds(lambda: a @ b, device) for _ in range(5)]
    return 2 * size**3 / min(times)


def _seconds(run: Callable[[], Any], device: torch.device) -> float:
    _wait(device)
    started = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Contestant:
    """An image encoder in one precision.

    Attributes:
        name, precision: what it is called, and in what it works.
        encoder: from pixels to the embedding.
        operations: floating-point operations an image.
        exact: whether it must return what the original does.
    """

    name: str
    precision: str
    encoder: Any
    operations: int
    exact: bool = True


def _contestants(model: str, kinds: list[str], precisions: list[str]) -> Iterator[Contestant]:
    """Those asked for; before them, asked for or not, the original in float32.

    A network's speed changes as the next one is asked for.
    """
    sam = new_network(model)
    registry = original_modules()[""].sam_model_registry
    original = registry[model]().eval()
    original.load_state_dict(sam.state_dict())
    exact = 2 * encoder_cost(sam.image_encoder, None).multiply_adds
    fewer = 2 * encoder_cost(sam.image_encoder, PRESETS["balanced"]).multiply_adds
    theirs, ours = {}, {}
    if "original" in kinds:
        theirs["original"] = original.image_encoder
    if "original, compiled" in kinds:
        theirs["original, compiled"] = torch.compile(copy.deepcopy(original.image_encoder))
    if "transformers" in kinds:
        theirs["transformers"] = transformers_encoder(sam)
    if "ours" in kinds:
        ours["ours"] = sam
    if "ours, compiled" in kinds:
        ours["ours, compiled"] = copy.deepcopy(sam)
        compile_encoder(ours["ours, compiled"].image_encoder)
    yield Contestant("original", "float32", original.image_encoder, exact)
    for precision in precisions:
        for name, encoder in theirs.items():
            if (name, precision) != ("original", "float32"):
                yield Contestant(name, precision, encoder, exact)
        for kind, network in ours.items():
            for speed, operations in (("exact", exact), ("balanced", fewer)):
                expedite(network, PRESETS[speed])
                name, encoder = f"{kind}, {speed}", network.image_encoder
                yield Contestant(name, precision, encoder, operations, speed == "exact")


def _report(
    model: str,
    batch: int,
    device: torch.device,
    rates: dict[str, float],
    options: argparse.Namespace,
) -> None:
    pixels = torch.randn(batch, 3, 1024, 1024, generator=torch.Generator().manual_seed(0))
    expected: Tensor | None = None
    baseline = 0.0
    for one in _contestants(model, options.contestants, options.precisions):
        one.encoder.to(device, DTYPES[one.precision])
        given = pixels.to(device, DTYPES[one.precision])
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        run = partial(one.encoder, given)
        with torch.inference_mode():
            result = run()
            result = getattr(result, "last_hidden_state", result).float().cpu()
            expected = result if expected is None else expected
            error = ((result - expected).abs().max() / expected.abs().max()).item()
            if one.exact and error > CLOSE[one.precision]:
                raise AssertionError(f"{one.name} in {one.precision} differs by {error:.1e}")
            median = statistics.median(_seconds(run, device) for _ in range(options.repeats))
        baseline = baseline or median
        memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
        floor = one.operations * batch / rates[one.precision]
        print(
            f"| {model} | {batch} | {one.name}, {one.precision} | {1e3 * median:.1f} | "
            f"{batch / median:.2f} | {baseline / median:.2f} | {floor / median:.0%} | "
            f"{memory / 2**30:.2f} GB |",
            flush=True,
        )
        one.encoder.to("cpu", torch.float32)


if __name__ == "__main__":
    main()
