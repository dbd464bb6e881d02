"""How time and memory grow with the size of images, the points asked, and the number of images.

    python benchmarks/growth.py --plot docs/images/growth.png

Everything mode with ``vit_s`` on the README's photograph. Each measurement has a process of its
own, which is warmed up on a small image; memory is the most that it held.
"""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np

PHOTO = Path(__file__).parents[1] / "docs" / "images" / "coffee.jpg"
SIDES = (500, 1000, 2000, 4000, 8000)
POINTS = (8, 16, 32, 64)
IMAGES = (1, 4, 8, 16, 32)


@dataclass
class Growth:
    """One thing that grows, and what it costs.

    Attributes:
        what: its name and unit.
        values: how much of it.
        seconds: of everything mode, or of the whole batch.
        megabytes: peak memory of the process.
    """

    what: str
    values: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)

    def measure(self, value: float, side: int, points: int, images: int) -> None:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            seconds, megabytes = process.submit(run, side, points, images).result()
        self.values.append(value)
        self.seconds.append(seconds)
        self.megabytes.append(megabytes)
        print(f"| {self.what} | {value:g} | {seconds:.2f} | {megabytes:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--plot", type=Path, help="write it there too")
    options = parser.parse_args()
    import torch

    print(f"vit_s, {os.cpu_count()} threads, torch {torch.__version__}\n")
    print("| what grows | to | seconds | MB |")
    print("| --- | --- | --- | --- |")
    size, points, images = Growth("megapixels"), Growth("points"), Growth("images")
    for side in SIDES:
        size.measure(side * side * 2 / 3 / 1e6, side, 16, 1)
    for count in POINTS:
        points.measure(count**2, 1000, count, 1)
    for count in IMAGES:
        images.measure(count, 1000, 8, count)
    if options.plot:
        plot([size, points, images], options.plot)


def run(side: int, points: int, images: int) -> tuple[float, float]:
    """Seconds and peak megabytes of everything mode on so many images ``side`` pixels long."""
    import torch
    from PIL import Image

    from expedit_sam import SamAutomaticMaskGenerator, build_sam
    from expedit_sam.evaluate.memory import PeakMemory
    from expedit_sam.everything.recommended import RECOMMENDED
    from expedit_sam.images import read_image

    settings = RECOMMENDED["vit_s"] | {"points_per_side": points}
    generator = SamAutomaticMaskGenerator(build_sam("vit_s"), output_mode="coco_rle", **settings)
    photo = read_image(PHOTO)
    generator.generate(photo[:64, :64])
    image = np.asarray(Image.fromarray(photo).resize((side, side * 2 // 3)))
    memory = PeakMemory(torch.device("cpu"))
    started = time.perf_counter()
    for _ in range(images):
        generator.generate(image)
    return time.perf_counter() - started, (memory.bytes() or 0) / 1e6


def plot(growths: list[Growth], file: Path) -> None:
    """Seconds above, memory below."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    figure = Figure(figsize=(9, 4.6), layout="constrained")
    rows = figure.subplots(2, len(growths), sharex="col")
    for column, growth in enumerate(growths):
        for axes, values, name in (
            (rows[0][column], growth.seconds, "seconds"),
            (rows[1][column], growth.megabytes, "peak memory, MB"),
        ):
            axes.plot(growth.values, values, marker="o", color="#1f5fa8")
            axes.set_xscale("log")
            axes.set_xticks(growth.values, [f"{value:{_digits(value)}}" for value in growth.values])
            axes.xaxis.set_minor_formatter(NullFormatter())
            if values is growth.seconds:
                axes.set_yscale("log")  # a slope of 1 is in proportion
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            else:
                axes.set_ylim(0, max(values) * 1.15)
            axes.yaxis.set_major_formatter(ScalarFormatter())
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.grid(alpha=0.3)
            if column == 0:
                axes.set_ylabel(name)
        rows[1][column].set_xlabel(growth.what)
    figure.savefig(file, dpi=110)


def _digits(value: float) -> str:
    return ".0f" if value >= 10 else ".2g"


if __name__ == "__main__":
    main()
