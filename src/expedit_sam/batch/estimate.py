"""What a job would take, from a few of its images that are really done."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from expedit_sam.batch.job import write_shard
from expedit_sam.batch.run import in_this_process
from expedit_sam.batch.schema import SHARD
from expedit_sam.batch.task import Task
from expedit_sam.model.sam import Sam

MEASURED = 4  # images, spread over the list


@dataclass(frozen=True)
class Estimate:
    """What all images would take.

    Attributes:
        images: how many there are.
        hours: that one worker would take.
        bytes: size of all shards.
        failures: how many of the measured images failed.
        measured: how many images were really done.
    """

    images: int
    hours: float
    bytes: int
    failures: int
    measured: int


def estimate(items: pa.Table, sam: Sam, task: Task, threads: int | None = None) -> Estimate:
    """Do a few images, in this process and without writing anything, and scale up.

    The first of them is done twice and timed the second time: a network has to warm up.

    Arguments:
        items: a row an image, with the schema ``ITEMS``.
        sam: the network.
        task: what to ask.
        threads: of PyTorch; None leaves its own number.
    """
    total = items.num_rows
    chosen = np.linspace(0, total - 1, min(MEASURED, total)).astype(int)
    pipeline = in_this_process(sam, task, threads)
    next(pipeline([items.take(chosen[:1])]))
    started = time.perf_counter()
    results = next(pipeline([items.take(chosen)]))
    seconds = (time.perf_counter() - started) / len(chosen)
    sink = pa.BufferOutputStream()
    write_shard(results.select(SHARD.names).cast(SHARD), sink)
    return Estimate(
        images=total,
        hours=seconds * total / 3600,
        bytes=int(sink.tell() / len(chosen) * total),
        failures=results.num_rows - results["error"].null_count,
        measured=len(chosen),
    )
