"""Batches on Ray Data: one laptop or a cluster, the same stages and the same results."""

from __future__ import annotations

import itertools
import logging
import os
import platform
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch

from expedit_sam.batch.loading import ITEM_COLUMNS, load_item, load_row
from expedit_sam.batch.network import Network
from expedit_sam.batch.readers import image_column
from expedit_sam.batch.run import Pipeline
from expedit_sam.batch.stages import Load, make_masks, read
from expedit_sam.batch.task import Task
from expedit_sam.errors import InputError
from expedit_sam.model.sam import Sam

if TYPE_CHECKING:
    import ray.data

# Ray keeps a record of every block of a dataset: rounds keep a million images from piling up.
_BLOCKS_PER_ROUND = 1000


@contextmanager
def cluster(address: str | None = None) -> Iterator[None]:
    """Ray, started on this machine or joined, without a word and without reports to anybody.

    Raises:
        InputError: Ray is not installed, or there is no cluster at the address.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    # Ray tells standard output that it stopped workers at Ctrl+C, and that it tries again.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "killed by `ray.kill`|infinite retries")
    try:
        import ray
    except ImportError as error:
        raise InputError("--workers needs Ray: pip install 'expedit-sam[ray]'") from error
    try:
        with _unheard():
            ray.init(
                address=address or "local",
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except (ConnectionError, ValueError, RuntimeError) as error:
        if not address:
            raise
        raise InputError(
            f"no Ray cluster lets this machine in at {address}: check --address, and its token "
            "(RAY_AUTH_MODE=token)"
        ) from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it logs as errors it raises
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _unheard() -> Iterator[None]:
    """Nothing on standard error: Ray's native part says there how much it is going to say."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def segment(
    dataset: ray.data.Dataset,
    sam: Sam,
    task: Task,
    *,
    column: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    device: str = "auto",
) -> ray.data.Dataset:
    """Masks of the images of a Ray dataset, lazily: nothing runs until its rows are asked for.

    ::

        sam = build_sam("vit_b", hourglass="balanced")
        images = ray.data.read_images("s3://bucket/photos", include_paths=True)
        masks = segment(images, sam, Task.of(sam, "vit_b", "balanced", everything={}))
        masks.write_parquet("s3://bucket/masks")

    Arguments:
        dataset: a row an image, as an array, encoded bytes or where it is; ``boxes`` or ``points``
            beside it are prompts (see ``prompts_of``).
        sam: the network; each worker gets a copy.
        task: what to ask.
        column: which holds the images; None is the first of ``IMAGE_COLUMNS`` that there is.
        workers: processes that hold the network; None is one a GPU, or one.
        threads: of each worker on a CPU; None shares the CPUs among them.
        device: of the workers; "auto" as in ``Shape.of``.

    Returns:
        the dataset with the columns ``schema.RESULT`` in the place of images and prompts.

    Raises:
        InputError: no column holds images, or there is no such device.
    """
    if column is None:
        column = image_column(dataset.schema().base_schema)
    load = partial(load_row, column=column)
    drop = (column, "boxes", "points", "labels")
    own = deepcopy(sam)  # which goes to the CPU; the caller's stays where it is
    return _stages(dataset, own, task, load, drop, Shape.of(workers, threads, device))


def on_ray(sam: Sam, task: Task, shape: Shape) -> Pipeline:
    """A job's pipeline on the cluster that this process has joined."""
    import ray

    def pipeline(blocks: Iterable[pa.Table]) -> Iterator[pa.Table]:
        blocks = iter(blocks)
        while tables := list(itertools.islice(blocks, _BLOCKS_PER_ROUND)):
            dataset = ray.data.from_arrow(tables)
            results = _stages(dataset, sam, task, load_item, ITEM_COLUMNS, shape)
            with _in_one_line():
                yield from results.iter_batches(
                    batch_size=None, batch_format="pyarrow", prefetch_batches=0
                )

    return pipeline


@contextmanager
def _in_one_line() -> Iterator[None]:
    """Raises a worker's ``InputError`` here, out of the traceback that Ray tells of it."""
    from ray.exceptions import RayActorError

    try:
        yield
    except RayActorError as error:
        if told := re.search(r"InputError: (.+)", str(error)):
            raise InputError(told[1]) from error
        raise


@dataclass(frozen=True)
class Shape:
    """How a cluster is used.

    Attributes:
        workers: processes that hold the network.
        threads: of PyTorch in each; None where they have a GPU.
        device: of each.
        gpus, cpus: what a worker counts as.
        beside: CPUs that a task that reads or makes masks counts as.
    """

    workers: int
    threads: int | None
    device: str
    gpus: float
    cpus: float
    beside: float

    @classmethod
    def of(cls, workers: int | None, threads: int | None, device: str) -> Shape:
        """A fitting one for the cluster that this process has joined.

        Arguments:
            workers: None is one a GPU, or one.
            threads: None shares the CPUs among the workers.
            device: "auto" is "cuda" where the cluster has GPUs other than those of this machine
                that its PyTorch cannot use, else "cpu".

        Raises:
            InputError: there is no such device.
        """
        import ray

        resources = ray.cluster_resources()
        gpus = resources.get("GPU", 0.0)
        if device == "auto":
            device = "cuda" if gpus > _useless_gpus() else "cpu"
        if (device == "cuda" and not gpus) or (
            device == "mps" and not torch.backends.mps.is_available()
        ):
            raise InputError(f"device '{device}' is not available on Ray: pass device 'cpu'")
        if device == "cuda":
            workers = workers or max(int(gpus), 1)
            counted = min(1.0, resources["CPU"] / workers / 2)  # which leaves some for the others
            return cls(workers, threads, device, min(1.0, gpus / workers), counted, counted)
        workers = workers or 1
        cpus = resources["CPU"] / workers
        # Little, so that the workers of a lost node find room on the others and still leave some
        # for reading and making masks; without it everything would wait for everything.
        counted = cpus / 4
        return cls(workers, threads or max(1, int(cpus)), device, 0.0, counted, counted)


def _useless_gpus() -> float:
    """GPUs of this machine that its PyTorch, one without CUDA, cannot use."""
    import ray

    if torch.cuda.is_available():
        return 0.0
    own = ray.get_runtime_context().get_node_id()
    return sum(node["Resources"].get("GPU", 0.0) for node in ray.nodes() if node["NodeID"] == own)


def _stages(
    dataset: ray.data.Dataset,
    sam: Sam,
    task: Task,
    load: Load,
    drop: tuple[str, ...],
    shape: Shape,
) -> ray.data.Dataset:
    import ray

    whole: dict[str, Any] = {
        "batch_size": None,
        "batch_format": "pyarrow",
        "zero_copy_batch": True,
    }
    beside = min(shape.beside, 1.0)
    with warnings.catch_warnings():
        # scheduling_strategy and ray_remote_args_fn go in Ray 2.64, which is excluded.
        warnings.simplefilter("ignore")
        return (
            dataset.map_batches(
                read, fn_kwargs={"task": task, "load": load, "drop": drop}, num_cpus=beside, **whole
            )
            .map_batches(
                _Worker,
                fn_constructor_args=(ray.put(sam.cpu()), task, shape.threads, shape.device),
                concurrency=shape.workers,
                num_cpus=shape.cpus,
                # num_gpus asks for a batch_size, which would join blocks of different chunks.
                ray_remote_args_fn=lambda: {"num_gpus": shape.gpus},
                scheduling_strategy="SPREAD",  # which also keeps Ray from fusing it with reading
                **whole,
            )
            .map_batches(make_masks, fn_kwargs={"task": task}, num_cpus=beside, **whole)
        )


class _Worker(Network):
    """The network in a process of its own.

    Raises:
        InputError: PyTorch cannot use the GPU.
    """

    def __init__(self, sam: Any, task: Task, threads: int | None, device: str) -> None:
        import ray

        if device == "cuda" and not torch.cuda.is_available():
            raise InputError(
                f"PyTorch on {platform.node()} cannot use its GPU: "
                "install PyTorch with CUDA there, or pass device 'cpu'"
            )
        super().__init__(ray.get(sam).to(device), task, threads)
