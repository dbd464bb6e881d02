"""Whether a batch still has every image exactly once when it, or a node of its cluster, is killed.

    python -m benchmarks.batch kill --photos PHOTOS --images 2000 [--vit-s]
    python -m benchmarks.batch nodes --images 400

``kill`` leaves one batch alone, kills another three times and lets it end, and compares their
shards byte for byte; it prints the memory of both too. ``nodes`` kills one of two Ray nodes and
compares the shards with those of one process.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from expedit_sam.batch import Task, on_ray
from expedit_sam.batch.job import Job
from expedit_sam.batch.run import Progress, in_this_process, run
from expedit_sam.batch.sources import list_items
from expedit_sam.images import find_images, read_image

CORRUPT = 20  # files
CUT_OFF = 200  # bytes that stay of them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["kill", "nodes"])
    parser.add_argument("--photos", type=Path, help="a folder")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--vit-s", action="store_true", help="kill a real network, not a tiny one")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, help="keeps images and results; else none is kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = options.folder or Path(temporary)
        if options.what == "kill":
            command = (vit_s_batch if options.vit_s else tiny_batch)(
                place, options.photos, options.images
            )
            left_alone(command, place / "whole", options.workers[0])
            for workers in options.workers:
                killed_and_resumed(command, place, workers)
        else:
            a_node_lost(place, options.images)


def small_images(folder: Path, photos: Path | None, number: int, side: int) -> Path:
    """A folder of ``number`` different images of side x side pixels: crops of photos, or noise."""
    if folder.exists():
        return folder
    folder.mkdir()
    generator = np.random.default_rng(0)
    files = find_images([photos]) if photos else []
    for i in range(number):
        if files:
            photo = Image.fromarray(read_image(files[i % len(files)]))
            x, y = (int(generator.integers(0, max(1, length - side))) for length in photo.size)
            photo.crop((x, y, x + side, y + side)).save(folder / f"{i:05d}.jpg", quality=90)
        else:
            noise = generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / f"{i:05d}.jpg")
    return folder


def with_clicks(images: Path) -> Path:
    """A list of the images with a click in the middle of each."""
    if (images / "clicks.parquet").exists():
        return images / "clicks.parquet"
    files = sorted(images.glob("*.jpg"))
    clicks = [[[Image.open(file).width / 2, Image.open(file).height / 2]] for file in files]
    table = pa.table({"path": [file.name for file in files], "points": clicks})
    pq.write_table(table, images / "clicks.parquet")
    return images / "clicks.parquet"


class Memory(threading.Thread):
    """Samples the memory of a process and its children in MB, every half second.

    Shared memory counts in parts, one for each process that shares it (proportional set size).
    """

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.process, self.seen = psutil.Process(process), [0.0]
        self.start()

    def run(self) -> None:
        try:
            while True:
                family = [self.process, *self.process.children(recursive=True)]
                self.seen.append(sum(_proportional(member) for member in family) / 1e6)
                time.sleep(0.5)
        except psutil.Error:
            pass

    def by_quarters(self) -> str:
        """The mean over each quarter of the run, in words."""
        seen = self.seen[1:]
        parts = [seen[len(seen) * q // 4 : len(seen) * (q + 1) // 4] or [0] for q in range(4)]
        return "memory by quarters: " + " ".join(f"{statistics.mean(p):.0f}" for p in parts) + " MB"


def _proportional(process: psutil.Process) -> float:
    """Proportional set size in bytes; 0 if the process has ended."""
    try:
        return process.memory_full_info().pss
    except psutil.Error:
        return 0.0


# -- killed ------------------------------------------------------------------------------------


def tiny_batch(place: Path, photos: Path | None, number: int) -> list[str]:
    """The command of a batch in everything mode with the tests' tiny network."""
    images = small_images(place / "images", photos, number, 64)
    damage(images)
    return [
        *(sys.executable, "-m", "tests.batch.tiny_program", "batch", str(images)),
        *("--checkpoint", "random", "--points-per-side", "2", "--pred-iou-thresh", "-100"),
        *("--stability-score-thresh", "0", "--min-mask-region-area", "0", "--threads", "1"),
    ]


def vit_s_batch(place: Path, photos: Path | None, number: int) -> list[str]:
    """The command of a batch of clicks with vit_s at its fastest."""
    source = with_clicks(small_images(place / "images", photos, number, 256))
    damage(place / "images")
    return [
        *(sys.executable, "-m", "expedit_sam", "batch", str(source), "--threads", "1"),
        *("--speed", "fast", "--precision", "bfloat16"),
    ]


def damage(images: Path) -> None:
    """Cut ``CORRUPT`` of the files off."""
    files = sorted(images.glob("*.jpg"))
    for file in files[:: max(1, len(files) // CORRUPT)][:CORRUPT]:
        file.write_bytes(file.read_bytes()[:CUT_OFF])


def left_alone(command: list[str], out: Path, workers: int) -> None:
    """A batch that nobody disturbs, to compare with."""
    if not (out / "summary.json").exists():
        print(f"left alone, {workers} workers: {last_run([*command, '--workers', workers], out)}")


def last_run(command: list[object], out: Path) -> str:
    """Run a batch to its end, and say how fast it was and how much memory it took."""
    process = subprocess.Popen([*map(str, command), "--out", str(out)])
    memory = Memory(process.pid)
    assert process.wait() == 0
    ran = json.loads((out / "summary.json").read_text())["last_run"]
    rate = ran["images"] / ran["seconds"]
    return f"{ran['images']} images, {rate:.2f} a second with the start; {memory.by_quarters()}"


def killed_and_resumed(command: list[str], place: Path, workers: int) -> None:
    """Kill a batch three times; compare with the one that was left alone."""
    whole, out = place / "whole", place / f"killed_{workers}"
    total = len(list(whole.glob("shards/*")))
    chance = random.Random(0)
    for done in sorted(chance.choices(range(1, total // 2 + 1), k=3)):
        process = subprocess.Popen([*command, "--out", str(out), "--workers", str(workers)])
        while len(list(out.glob("shards/*.parquet"))) < done:
            time.sleep(0.01)
            assert process.poll() is None
        time.sleep(chance.uniform(0, 1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        print(f"killed with {len(list(out.glob('shards/*.parquet')))} of {total} shards")
    rest = last_run([*command, "--workers", workers], out)
    equal = all(
        file.read_bytes() == (out / "shards" / file.name).read_bytes()
        for file in whole.glob("shards/*")
    )
    rows = pq.read_table(out / "shards").to_pylist()
    failed = sorted(Path(row["image"]).name for row in rows if row["error"])
    files = sorted((place / "images").glob("*.jpg"))
    broken = [file.name for file in files if file.stat().st_size <= CUT_OFF]
    print(
        f"{workers} workers: {len(rows)} rows of {len({row['image'] for row in rows})} images; "
        f"{len(failed)} failures reported, those that are broken: {failed == broken}; "
        f"shards equal byte for byte: {equal}; the last run: {rest}"
    )


# -- a lost node -------------------------------------------------------------------------------


def a_node_lost(place: Path, number: int) -> None:
    """A Ray cluster of two nodes on this machine; the second is killed when a third is done."""
    from ray.cluster_utils import Cluster

    from expedit_sam.model.architectures import new_sam
    from tests.conftest import TINY

    torch.manual_seed(0)
    sam = new_sam(TINY)
    task = Task.of(sam, everything={"points_per_side": 2, "pred_iou_thresh": -100.0})
    images = small_images(place / "images", None, number, 64)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    settings = {"images_per_shard": 16}
    job = Job.open(place / "two", settings, lambda: list_items(str(images)))
    alone = Job.open(place / "one", settings, lambda: list_items(str(images)))
    killed: list[int] = []

    def kill(progress: Progress) -> None:
        if not killed and progress.images > number // 3:
            killed.append(progress.images)
            cluster.remove_node(second, allow_graceful=False)

    with on_ray.cluster(cluster.address):
        run(job, on_ray.on_ray(sam, task, on_ray.Shape.of(2, 1, "cpu")), on_progress=kill)
    cluster.shutdown()
    run(alone, in_this_process(sam, task, 1))
    equal = all(
        job.shard(chunk).read_bytes() == alone.shard(chunk).read_bytes() for chunk in job.chunks
    )
    rows = pq.read_table(place / "two" / "shards").num_rows
    print(f"node killed after {killed[0]} of {number} images: {rows} rows, equal bytes: {equal}")


if __name__ == "__main__":
    main()
