"""How fast a batch is beside the bare network, and how long each of its stages takes.

    python -m benchmarks.batch_speed workers --photos PHOTOS --images 2000
    python -m benchmarks.batch_speed stages --photos PHOTOS

``workers`` prints images a second of batches of clicks, each between two loops of the bare network.
``stages`` prints the CPU seconds of reading, mask-making and writing for an image of SA-1B's size.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from benchmarks.batch import Memory, small_images, with_clicks
from expedit_sam import SamPredictor, build_sam
from expedit_sam.batch import Task, on_ray
from expedit_sam.batch.job import Job
from expedit_sam.batch.loading import ITEM_COLUMNS, load_item
from expedit_sam.batch.network import Network
from expedit_sam.batch.run import Progress, in_this_process, run
from expedit_sam.batch.sources import list_items
from expedit_sam.batch.stages import make_masks, read
from expedit_sam.everything.rle import encode_masks
from expedit_sam.images import find_images, read_image

BARE = 64  # images of the bare network's loops


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["workers", "stages"])
    parser.add_argument("--photos", type=Path, required=True, help="a folder")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        if options.what == "workers":
            speed(place, options.photos, options.images, options.workers)
        else:
            stages(place, options.photos)


def speed(place: Path, photos: Path, number: int, workers: list[int]) -> None:
    """One click an image with vit_s, fast: batches, each between two loops of the bare network."""
    source = str(with_clicks(small_images(place / "images", photos, number, 256)))
    sam = build_sam(hourglass="fast")
    task = Task.of(sam, speed="fast")
    print(f"bare network: {bare_loop(sam, source, 2):.3f} images/s with 2 threads", flush=True)
    before = bare_loop(sam, source, 1)
    for count in workers:
        settings = {"images_per_shard": 16}
        job = Job.open(place / f"speed{count}", settings, lambda: list_items(source))
        marks: list[tuple[float, int]] = []

        def mark(progress: Progress, marks: list[tuple[float, int]] = marks) -> None:
            marks.append((progress.elapsed, progress.images))

        memory = Memory(psutil.Process().pid)
        if count == 0:
            progress = run(job, in_this_process(sam, task, 1), on_progress=mark)
        else:
            with on_ray.cluster():
                shape = on_ray.Shape.of(count, 1, "cpu")
                progress = run(job, on_ray.on_ray(sam, task, shape), on_progress=mark)
        memory_used = memory.by_quarters()
        rate = progress.images / progress.elapsed
        (first, some), (last, every) = marks[0], marks[-1]
        after = bare_loop(sam, source, 1)
        print(
            f"{count} workers of 1 thread: {rate:.3f} images/s with the start, "
            f"{(every - some) / (last - first):.3f} after the first results; "
            f"bare network: {before:.3f} before, {after:.3f} after, "
            f"{2 * rate / (before + after):.2f} times their mean with the start; worker seconds "
            + ", ".join(f"{name} {value:.1f}" for name, value in progress.seconds.items())
            + f"; {memory_used}",
            flush=True,
        )
        before = after


def bare_loop(sam: torch.nn.Module, source: str, threads: int) -> float:
    """Images a second of ``BARE`` images: read, one click, run-length encode."""
    torch.set_num_threads(threads)
    predictor = SamPredictor(sam)
    items = list_items(source).to_pylist()[:BARE]
    predictor.set_image(read_image(items[0]["uri"]))
    started = time.perf_counter()
    for item in items:
        predictor.set_image(read_image(item["uri"]))
        (prompt,) = item["prompts"]
        masks, scores, _ = predictor.predict(np.array(prompt["points"]), np.array([1]))
        encode_masks(masks[scores.argmax()][None])
    return len(items) / (time.perf_counter() - started)


# -- stages ------------------------------------------------------------------------------------


def stages(place: Path, photos: Path, side: int = 10) -> None:
    """CPU seconds of the stages for an image like SA-1B's: 2250x1500 pixels, about 100 masks."""
    photo = Image.fromarray(read_image(find_images([photos])[0])).resize((2250, 1500))
    photo.save(place / "photo.jpg", quality=95)
    grid = [[225.0 * (x + 0.5), 150.0 * (y + 0.5)] for x in range(side) for y in range(side)]
    rows = pa.table({"path": ["photo.jpg"] * 16, "points": [grid] * 16})
    pq.write_table(rows, place / "photo.parquet")
    sam = build_sam(hourglass="fast")
    task = Task.of(sam, speed="fast")
    settings = {"images_per_shard": 16}
    job = Job.open(place / "job", settings, lambda: list_items(str(place / "photo.parquet")))

    def timed(name: str, work: Callable[[], Any], images: int) -> Any:
        started = time.process_time()
        result = work()
        print(f"{name}: {(time.process_time() - started) / images:.3f} CPU seconds an image")
        return result

    one = job.items_of(0).slice(0, 1)
    table = timed("read", lambda: read(one, task, load_item, ITEM_COLUMNS), 1)
    answered = Network(sam, task, 1)(table)
    masks = timed(f"masks, {side**2} of them", lambda: make_masks(answered, task), 1)
    results = [masks.set_column(0, "index", pa.array([index], pa.int64())) for index in range(16)]
    timed("write", lambda: job.write(0, results), 16)
    print(f"results: {job.shard(0).stat().st_size / 16 / 1e3:.0f} kB an image")


if __name__ == "__main__":
    main()
