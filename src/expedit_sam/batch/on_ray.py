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
from secrets import token_hex
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
    """Start Ray on this machine or join a cluster; it prints nothing and reports to nobody.

    Arguments:
        address: HOST:PORT of a cluster; None starts one here.

    Raises:
        InputError: Ray is not installed, or there is no cluster at the address.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    # At Ctrl+C Ray would print that it stopped its workers and that it retries.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "killed by `ray.kill`|infinite retries")
    if address:  # one try takes 40 seconds; Ray's 20 would be a quarter of an hour of silence
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
    else:  # on all networks Ray runs what anybody sends who has its token, or may read ~/.ray
        os.environ.setdefault("RAY_AUTH_TOKEN", token_hex(32))
    try:
        import ray
    except ImportError as error:
        raise InputError("--workers needs Ray: pip install 'expedit-sam[ray]'") from error
    try:
        with _stderr_silenced():
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
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it raises its errors too
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _stderr_silenced() -> Iterator[None]:
    """Discard what is written to standard error, by Ray's C++ part too, which no logger reaches."""
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
            with _worker_errors_unwrapped():
                yield from results.iter_batches(
                    batch_size=None, batch_format="pyarrow", prefetch_batches=0
                )

    return pipeline


@contextmanager
def _worker_errors_unwrapped() -> Iterator[None]:
    """Raise a worker's ``InputError`` itself, taken from the traceback that Ray wraps it in."""
    from ray.exceptions import RayActorError

    try:
        yield
    except RayActorError as error:
        if match := re.search(r"InputError: (.+)", str(error)):
            raise InputError(match[1]) from error
        raise


@dataclass(frozen=True)
class Shape:
    """How many workers a cluster runs, and what Ray reserves for them.

    Attributes:
        workers: processes that hold the network.
        threads: of PyTorch in each worker; None leaves PyTorch's own number.
        device: of each worker, "cpu", "cuda" or "mps".
        gpus, cpus: what Ray reserves for a worker, in fractions of one; threads may be more.
        beside: CPUs that Ray reserves for a task that reads images or makes masks.
    """

    workers: int
    threads: int | None
    device: str
    gpus: float
    cpus: float
    beside: float

    @classmethod
    def of(cls, workers: int | None, threads: int | None, device: str) -> Shape:
        """The shape that fits the cluster which this process has joined.

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
            reserved = min(1.0, resources["CPU"] / workers / 2)  # leaves some for the other stages
            return cls(workers, threads, device, min(1.0, gpus / workers), reserved, reserved)
        workers = workers or 1
        cpus = resources["CPU"] / workers
        # A quarter: the workers of a lost node then fit onto the other nodes and still leave room
        # for reading and making masks. Without that room all stages would wait for each other.
        reserved = cpus / 4
        return cls(workers, threads or max(1, int(cpus)), device, 0.0, reserved, reserved)


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
    """The three stages of a batch on a dataset, lazily; see ``stages.read`` for the arguments."""
    import ray

    whole_blocks: dict[str, Any] = {
        "batch_size": None,
        "batch_format": "pyarrow",
        "zero_copy_batch": True,
    }
    beside = min(shape.beside, 1.0)
    with warnings.catch_warnings():
        # Ray warns that scheduling_strategy and ray_remote_args_fn go in 2.64, which is excluded.
        warnings.simplefilter("ignore")
        return (
            dataset.map_batches(
                read,
                fn_kwargs={"task": task, "load": load, "drop": drop},
                num_cpus=beside,
                **whole_blocks,
            )
            .map_batches(
                _Worker,
                fn_constructor_args=(ray.put(sam.cpu()), task, shape.threads, shape.device),
                concurrency=shape.workers,
                num_cpus=shape.cpus,
                # num_gpus asks for a batch_size, which would join blocks of different chunks.
                ray_remote_args_fn=lambda: {"num_gpus": shape.gpus},
                scheduling_strategy="SPREAD",  # which also keeps Ray from fusing it with reading
                **whole_blocks,
            )
            .map_batches(make_masks, fn_kwargs={"task": task}, num_cpus=beside, **whole_blocks)
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
