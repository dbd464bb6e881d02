"""Running a job: its blocks through the three stages, its chunks into shards as they complete."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from expedit_sam.batch.job import Job
from expedit_sam.batch.loading import ITEM_COLUMNS, load_item
from expedit_sam.batch.network import Network
from expedit_sam.batch.stages import make_masks, read
from expedit_sam.batch.task import Task
from expedit_sam.model.sam import Sam

IMAGES_PER_BLOCK = 8  # images that go through the stages together

# From blocks of items (``schema.ITEMS``) to blocks of results, in any order.
Pipeline = Callable[[Iterable[pa.Table]], Iterator[pa.Table]]


@dataclass
class Progress:
    """What was done since the start.

    Attributes:
        images, failures, masks: how many.
        seconds: of all workers together, by stage.
    """

    images: int = 0
    failures: int = 0
    masks: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    started: float = field(default_factory=time.perf_counter)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.started

    def count(self, results: pa.Table) -> None:
        """Take note of results."""
        self.images += results.num_rows
        self.failures += results.num_rows - results["error"].null_count
        self.masks += len(results["masks"].combine_chunks().flatten())
        for seconds in results["seconds"].to_pylist():
            for stage, value in seconds.items():
                self.seconds[stage] += value or 0.0


def in_this_process(sam: Sam, task: Task, threads: int | None = None) -> Pipeline:
    """The stages one after the other, a block at a time."""
    network = Network(sam, task, threads)

    def pipeline(blocks: Iterable[pa.Table]) -> Iterator[pa.Table]:
        for block in blocks:
            yield make_masks(network(read(block, task, load_item, ITEM_COLUMNS)), task)

    return pipeline


def run(
    job: Job,
    pipeline: Pipeline,
    chunks: Iterable[int] | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Do what is left of chunks of a job, each into its shard.

    Arguments:
        job: the job.
        pipeline: the three stages.
        chunks: numbers of the chunks; None is what is left.
        on_progress: called after each block.

    Returns:
        the counts of the whole run.

    Raises:
        InputError: a shard cannot be written.
    """
    size = job.settings["images_per_shard"]
    progress = Progress()
    waiting: dict[int, list[pa.Table]] = defaultdict(list)
    for results in pipeline(blocks(job, job.pending() if chunks is None else chunks)):
        progress.count(results)
        # All rows of a block are of one chunk (see ``blocks``).
        chunk = results["index"][0].as_py() // size
        waiting[chunk].append(results)
        if sum(table.num_rows for table in waiting[chunk]) == job.items_left(chunk).num_rows:
            job.write(chunk, waiting.pop(chunk))
        on_progress(progress)
    if waiting:
        raise RuntimeError(f"chunks {sorted(waiting)} are incomplete")
    return progress


def blocks(job: Job, chunks: Iterable[int]) -> Iterator[pa.Table]:
    """What is left of chunks, a few images at a time; a block has images of one chunk only."""
    for chunk in chunks:
        items = job.items_left(chunk)
        for first in range(0, items.num_rows, IMAGES_PER_BLOCK):
            yield items.slice(first, IMAGES_PER_BLOCK)
