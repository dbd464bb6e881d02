r"""How long SAM takes for an image, exact and through the hourglass.

    python scripts/benchmark.py --model-type vit_b --points-per-side 12 \
        --use_hourglass

Times the image encoder alone, and everything mode: the encoder and a grid of
points. The images are noise of 1024x1024 pixels.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np

from expedit_sam import SamAutomaticMaskGenerator
from expedit_sam.build import RANDOM
from expedit_sam.cli.original_options import (
    add_options,
    exit_code,
    generator_arguments,
    read_network,
)


def main() -> int:
    """Exit code 0, or 2 where anything the user gave could not be used."""
    options = _parser().parse_args()
    try:
        print("Loading model...", flush=True)
        generator = SamAutomaticMaskGenerator(read_network(options), **generator_arguments(options))
    except ValueError as error:  # InputError, or a setting that does not fit
        print(f"benchmark.py: {error}", file=sys.stderr)
        return 2
    encoder = generator.predictor.model.image_encoder
    speeds = {"exact": None, "hourglass": encoder.hourglass}
    for name, setting in speeds.items():
        if name == "exact" or setting is not None:
            encoder.hourglass = setting
            encoding, everything = _seconds(generator, options.warmup, options.images)
            print(f"{name + ':':10} encoder {_speed(encoding)}; everything {_speed(everything)}")
    print(f"Done!\nAverage time per image: {everything:.4f} seconds")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--checkpoint", default=RANDOM, help="a .pth or .safetensors file (else random weights)"
    )
    parser.add_argument("--images", type=_count, default=5, help="images timed (%(default)s)")
    parser.add_argument(
        "--warmup", type=_count, default=1, help="images run before, untimed (%(default)s)"
    )
    # The fork's script takes these of amg.py too, and uses none of them.
    for name in ("--input", "--output"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--convert-to-rle", action="store_true", help=argparse.SUPPRESS)
    add_options(parser)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number from 1 on")
    return int(text)


def _seconds(generator: SamAutomaticMaskGenerator, warmup: int, images: int) -> tuple[float, float]:
    """Mean seconds an image of the encoder alone and of everything mode."""
    noise = np.random.default_rng(0)
    times = []
    for _ in range(warmup + images):
        image = noise.integers(0, 255, (1024, 1024, 3), dtype=np.uint8)
        start = time.perf_counter()
        generator.predictor.set_image(image)
        generator.predictor.get_image_embedding().cpu()  # waits for a GPU
        encoded = time.perf_counter()
        generator.generate(image)
        times.append((encoded - start, time.perf_counter() - encoded))
    encoding, everything = np.mean(times[warmup:], axis=0)
    return float(encoding), float(everything)


def _speed(seconds: float) -> str:
    return f"{seconds:.4f} s an image, {1 / seconds:.3f} images/s"


if __name__ == "__main__":
    sys.exit(exit_code(main))
