"""From what was asked to a job that runs: in this process, on a local Ray, or on a cluster."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from expedit_sam.batch.estimate import Estimate, estimate
from expedit_sam.batch.job import Job, at_work, locked
from expedit_sam.batch.on_ray import Shape, cluster, on_ray
from expedit_sam.batch.passes import Scaler
from expedit_sam.batch.run import Progress, in_this_process, run
from expedit_sam.batch.sources import list_items
from expedit_sam.batch.stages import generator
from expedit_sam.batch.summary import write_coco, write_summary
from expedit_sam.batch.task import Task
from expedit_sam.batch.versions import check_unchanged
from expedit_sam.model.sam import Sam
from expedit_sam.weights.digest import weights_digest

OnProgress = Callable[[int, int, int, float], None]  # done, total, failed, seconds


@dataclass(frozen=True)
class Request:
    """What a job is asked for: with the weights, all that results depend on but the machine.

    Attributes:
        source, images, limit: see ``list_items``.
        model, speed: of the network.
        everything: find everything even where the source has prompts.
        generator: arguments of ``SamAutomaticMaskGenerator`` other than the recommended ones.
        points_per_batch: prompts or points decoded together.
        images_per_shard: rows of a Parquet file.
        threads: of each worker on a CPU; None is the number that the job began with, or a share of
            the cores. A job keeps its number, because the order of sums decides how they round.
    """

    source: str
    images: str | None
    limit: int | None
    model: str
    speed: str
    everything: bool
    generator: dict[str, Any]
    points_per_batch: int
    images_per_shard: int
    threads: int | None

    def list(self) -> pa.Table:
        """The images."""
        return list_items(self.source, self.images, self.limit)

    def task(self, sam: Sam, items: pa.Table) -> Task:
        """What to ask of these images.

        Raises:
            InputError: an argument of everything mode is out of its range.
        """
        has_prompts = items["prompts"].null_count < items.num_rows
        prompted = has_prompts and not self.everything
        task = Task.of(
            sam,
            self.model,
            self.speed,
            everything=None if prompted else self.generator,
            points_per_batch=self.points_per_batch,
        )
        generator(Scaler(task.side), task)
        return task


def estimate_request(request: Request, sam: Sam) -> Estimate:
    """What the job would take, without doing it."""
    items = request.list()
    return estimate(items, sam, request.task(sam, items), request.threads)


def start(
    request: Request,
    sam: Sam,
    out: Path,
    share: tuple[int, int],
    workers: int | None,
    device: str,
    address: str | None,
    coco: bool,
    retry_failed: bool,
    on_progress: OnProgress,
) -> dict[str, Any]:
    """Do a job, or what is left of it.

    Arguments:
        request: what is asked.
        sam: the network.
        out: folder of the results.
        share: (i, n), the part of the work to do.
        workers: networks at once on Ray; None is one a GPU, or one; 0 does without Ray.
        device: of Ray's workers, "auto", "cpu", "cuda" or "mps".
        address: of a Ray cluster; None starts one here.
        coco: whether to write coco.json too.
        retry_failed: whether to try images that failed again.
        on_progress: called with the images done, to be done and failed, and the seconds.

    Returns:
        the contents of summary.json.

    Raises:
        InputError: the source, the folder or a setting will not do, or a file was changed since the
            job began.
    """
    joined = nullcontext() if workers == 0 else cluster(address)
    with at_work(out, share), joined:
        shape = None if workers == 0 else Shape.of(workers, request.threads, device)
        settings = asdict(request) | {"weights": weights_digest(sam)}
        default_threads = shape.threads if shape else torch.get_num_threads()
        job = Job.open(out, settings, request.list, default_threads)
        threads = job.settings["threads"]
        task = request.task(sam, job.items)
        pipeline = (
            on_ray(sam, task, replace(shape, threads=threads))
            if shape
            else in_this_process(sam, task, threads)
        )
        missing = job.pending(share)
        # Chunks that are only retried are not checked: their files may have been mended since.
        check_unchanged(job.items, map(job.items_of, missing))
        chunks = job.pending(share, failed=True) if retry_failed else missing
        total = sum(job.items_left(chunk).num_rows for chunk in chunks)

        def report(progress: Progress) -> None:
            on_progress(progress.images, total, progress.failures, progress.elapsed)

        progress = run(job, pipeline, chunks, report)
        with locked(out, "summary", wait=-1):  # whichever share ends last counts all of them
            if coco:
                write_coco(job)
            return write_summary(job, progress, shape.workers if shape else 0)
