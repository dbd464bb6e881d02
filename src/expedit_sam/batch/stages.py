"""The three stages of a batch, each from a table to a table: read, ask the network, make masks.

Between them a row's image travels in the column ``work``; all other columns pass untouched. One
process runs them in turn (``run.py``), and Ray runs them on many machines (``on_ray.py``).
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from pycocotools import mask as coco

from expedit_sam.batch.passes import Answer, PassGenerator, Repeater, Scaler, blank
from expedit_sam.batch.prompts import Prompt, check_prompts, points_prompt
from expedit_sam.batch.schema import RESULT
from expedit_sam.batch.task import Task
from expedit_sam.errors import InputError, is_out_of_memory
from expedit_sam.everything import rle
from expedit_sam.transforms import upscale_masks

Row = dict[str, Any]
Load = Callable[[Row], tuple[np.ndarray, list[Prompt] | None]]


@dataclass
class Work:
    """An image between the stages.

    Attributes:
        size: (H, W) of the image.
        crops: HxWx3 uint8, scaled for the network; the image alone where prompts are given. The
            network's stage takes them away.
        sizes: (H, W) of each crop.
        prompts: what was asked of the image; empty in everything mode.
        answers: of the network. In everything mode one for each batch of points; for prompts a
            single one, which numbers prompts where the others number points.
        error: why there will be no masks.
        seconds: taken by each stage.
    """

    size: tuple[int, int] = (0, 0)
    crops: list[np.ndarray] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    prompts: list[Prompt] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    error: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)


@contextmanager
def failing_alone(work: Work) -> Iterator[None]:
    """Record what is wrong with one image in its ``work.error``, so that the others go on."""
    try:
        yield
    except InputError as error:
        work.error = " ".join(str(error).split())
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        work.error = "the image needs more memory than there is: scale it down"


def read(table: pa.Table, task: Task, load: Load, drop: tuple[str, ...]) -> pa.Table:
    """Images and prompts, scaled for the network.

    Arguments:
        table: a row an image.
        load: gives the HxWx3 uint8 image of a row, and its prompts; an ``InputError`` goes into the
            row's ``error``.
        drop: columns that are not needed any more.
    """
    works = [read_one(row, task, load) for row in table.to_pylist()]
    return with_works(
        table.drop_columns([name for name in drop if name in table.schema.names]), works
    )


def read_one(row: Row, task: Task, load: Load) -> Work:
    """The image and the prompts of one row, scaled for the network."""
    started = time.perf_counter()
    work = Work()
    with failing_alone(work):
        image, prompts = load(row)
        work.size = (image.shape[0], image.shape[1])
        scaler = Scaler(task.side)
        if task.everything is not None:
            generator(scaler, task).generate(image)
        else:
            work.prompts = prompts or []
            check_prompts(work.prompts)
            scaler.set_image(image)
        work.crops = scaler.crops
        work.sizes = [(crop.shape[0], crop.shape[1]) for crop in work.crops]
    work.seconds["read"] = time.perf_counter() - started
    return work


def make_masks(table: pa.Table, task: Task) -> pa.Table:
    """The network's answers as masks: the columns ``RESULT`` in the place of ``work``."""
    rows = [_result(work, task) for work in works_of(table)]
    table = table.drop_columns(["work"])
    for column in RESULT:
        values = [row[column.name] for row in rows]
        table = table.append_column(column, pa.array(values, column.type))
    return table


def _result(work: Work, task: Task) -> Row:
    started = time.perf_counter()
    masks = None
    if work.error is None:
        with failing_alone(work):
            masks = masks_of(work, task)
    work.seconds["masks"] = time.perf_counter() - started
    height, width = work.size if work.error is None else (None, None)
    return {
        "height": height,
        "width": width,
        "masks": masks,
        "error": work.error,
        "model": task.model,
        "speed": task.speed,
        "weights": task.weights,
        "seconds": work.seconds,
    }


def masks_of(work: Work, task: Task) -> list[Row]:
    """The masks that the network's answers mean, with the columns of ``schema.MASK``."""
    return _prompted(work, task) if task.everything is None else _everything(work, task)


def _everything(work: Work, task: Task) -> list[Row]:
    repeater = Repeater(task.side, task.threshold, work.sizes, work.answers)
    return [
        _mask(record, points_prompt(record["point_coords"], [1]))
        for record in generator(repeater, task).generate(blank(work.size))
    ]


def _prompted(work: Work, task: Task) -> list[Row]:
    masks = []
    for low_res, iou, number in zip(*work.answers[0], strict=True):
        mask = upscale_masks(low_res, task.side, work.sizes[0], work.size, task.threshold)
        (encoded,) = rle.encode_masks(mask[None])
        record = {"segmentation": rle.to_coco(encoded), "predicted_iou": iou}
        masks.append(_mask(record, work.prompts[number]))
    return masks


def _mask(record: dict[str, Any], prompt: Prompt) -> Row:
    stability = record.get("stability_score")
    return {
        "segmentation": record["segmentation"],
        "bbox": coco.toBbox(record["segmentation"]).tolist(),
        "area": rle.area(record["segmentation"]),
        "predicted_iou": record["predicted_iou"],
        "stability_score": None if stability is None or np.isnan(stability) else stability,
        "prompt": prompt,
        "crop_box": record.get("crop_box"),
    }


def generator(predictor: Scaler, task: Task) -> PassGenerator:
    """Everything mode with a predictor that does one part of it."""
    return PassGenerator(
        predictor,
        points_per_batch=task.points_per_batch,
        output_mode="coco_rle",
        **(task.everything or {}),
    )


def works_of(table: pa.Table) -> list[Work]:
    """The works of a table's rows."""
    return [pickle.loads(work) for work in table["work"].to_pylist()]


def with_works(table: pa.Table, works: list[Work]) -> pa.Table:
    """The table with these works, instead of those that it may have."""
    column = pa.array([_packed(work) for work in works], pa.large_binary())
    if "work" in table.schema.names:
        table = table.drop_columns(["work"])
    return table.append_column("work", column)


def _packed(work: Work) -> bytes:
    with failing_alone(work):
        return pickle.dumps(work, protocol=5)
    work.crops, work.answers = [], []  # they did not fit into memory: only the error goes on
    return pickle.dumps(work, protocol=5)
