"""What came of a job: summary.json, and all masks as one COCO json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow.compute as pc

from expedit_sam.batch.files import appearing
from expedit_sam.batch.job import Job, read_shard
from expedit_sam.batch.run import Progress
from expedit_sam.results import CATEGORY, DESCRIPTION


def write_summary(job: Job, progress: Progress, workers: int) -> dict[str, Any]:
    """Count the results of a job and write summary.json.

    Arguments:
        job: the job, done or not.
        progress: of this run, for its throughput.
        workers: how many the run had; 0 is this process alone.

    Returns:
        what was written.
    """
    done = masks = 0
    failures = []
    for shard in job.shards():
        table = read_shard(shard, ["image", "error", "masks.list.element.area"])
        done += table.num_rows
        masks += len(table["masks"].combine_chunks().flatten())
        failed = table.filter(pc.is_valid(table["error"]))
        failures += [{"image": row["image"], "reason": row["error"]} for row in failed.to_pylist()]
    summary = {
        "images": job.items.num_rows,
        "segmented": done - len(failures),
        "failed": len(failures),
        "pending": job.items.num_rows - done,
        "masks": masks,
        "last_run": {
            "images": progress.images,
            "seconds": progress.elapsed,
            "images_per_second": progress.images / progress.elapsed,
            "workers": workers,
            "worker_seconds": dict(progress.seconds),
        },
        "settings": job.settings,
        "failures": failures,
    }
    with appearing(job.folder / "summary.json") as file:
        file.write(json.dumps(summary, indent=2).encode() + b"\n")
    return summary


def write_coco(job: Job) -> None:
    """Write coco.json with all masks there are; a shard at a time is in memory."""
    with appearing(job.folder / "coco.json") as file:
        info, categories = json.dumps({"description": DESCRIPTION}), json.dumps([CATEGORY])
        file.write(f'{{"info": {info},\n"images": ['.encode())
        for number, row in enumerate(_rows(job, ["image_id", "image", "height", "width"])):
            image = {
                "id": row["image_id"],
                "file_name": row["image"],
                "width": row["width"],
                "height": row["height"],
            }
            file.write(b",\n" * (number > 0) + json.dumps(image).encode())
        file.write(f'],\n"categories": {categories},\n"annotations": ['.encode())
        number = 0
        for row in _rows(job, ["image_id", "masks"]):
            for mask in row["masks"]:
                number += 1
                annotation = {
                    **{name: value for name, value in mask.items() if value is not None},
                    "id": number,
                    "image_id": row["image_id"],
                    "category_id": CATEGORY["id"],
                    "iscrowd": 0,
                }
                file.write(b",\n" * (number > 1) + json.dumps(annotation).encode())
        file.write(b"]}\n")


def _rows(job: Job, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Rows of images that could be read."""
    for shard in job.shards():
        table = read_shard(shard, [*columns, "error"])
        for row in table.filter(pc.is_null(table["error"])).to_pylist():
            del row["error"]
            yield row
