"""The stage that holds the network: embeddings of several images at once, then prompts of each."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from expedit_sam.batch.passes import Answer, Asker, blank
from expedit_sam.batch.prompts import Prompt
from expedit_sam.batch.stages import Work, failing_alone, generator, with_works, works_of
from expedit_sam.batch.task import Task
from expedit_sam.errors import is_out_of_memory
from expedit_sam.model.sam import Sam
from expedit_sam.predictor import SamPredictor


def ask_prompts(predictor: SamPredictor, prompts: Sequence[Prompt], at_once: int) -> Answer:
    """The best mask of each prompt on the image that is set.

    A single point may mean a thing, its part or the whole: of its three masks the one with the
    highest predicted IoU counts. Any other prompt is asked for one mask.

    Arguments:
        predictor: with an image set.
        prompts: in pixels of the image.
        at_once: how many prompts are decoded together at most.

    Returns:
        Px4hx4w low-res logits, P predicted IoU, and the prompts' numbers, 0 to P - 1.
    """
    logits = np.zeros((len(prompts), *predictor.mask_input_size), np.float32)
    iou = np.zeros(len(prompts), np.float32)
    # Prompts with as many points, and a box or none, are one tensor.
    alike: dict[tuple[int, bool], list[int]] = defaultdict(list)
    for number, prompt in enumerate(prompts):
        alike[len(prompt["points"] or []), prompt["box"] is not None].append(number)
    for (points, has_box), numbers in alike.items():
        for first in range(0, len(numbers), at_once):
            some = numbers[first : first + at_once]
            low_res, scores = predictor.predict_low_res(
                *_tensors(predictor, [prompts[number] for number in some]),
                multimask_output=points == 1 and not has_box,
            )
            best = scores.argmax(dim=1)
            rows = torch.arange(len(some), device=best.device)
            logits[some] = low_res[rows, best].cpu().numpy()
            iou[some] = scores[rows, best].cpu().numpy()
    return logits, iou, np.arange(len(prompts))


def _tensors(
    predictor: SamPredictor, prompts: Sequence[Prompt]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Points, labels and boxes, in network pixels, of prompts that have as many points each."""

    def scaled(values: Any) -> Tensor:
        pixels = predictor.transform.apply_coords(values, predictor.original_size)
        return torch.as_tensor(pixels, dtype=torch.float, device=predictor.device)

    points = labels = boxes = None
    if prompts[0]["points"]:
        points = scaled([prompt["points"] for prompt in prompts])
        labels = torch.as_tensor([prompt["labels"] for prompt in prompts], device=predictor.device)
    if prompts[0]["box"] is not None:
        boxes = scaled(np.reshape([prompt["box"] for prompt in prompts], (-1, 2, 2))).flatten(1)
    return points, labels, boxes


class Network:
    """The stage that asks the network: a call takes a table of read images and gives their answers.

    Arguments:
        sam: the network.
        task: what to ask.
        threads: of PyTorch in this process; None leaves it alone.
    """

    def __init__(self, sam: Sam, task: Task, threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.predictor = SamPredictor(sam)
        self.task = task

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with answers instead of crops in its column ``work``."""
        started = time.perf_counter()
        works = works_of(table)
        for work, features in zip(works, self._encode_each(works), strict=True):
            work.crops = []
            if work.error is None:
                with failing_alone(work):
                    work.answers = self.ask(work, features, self.task)
        seconds = (time.perf_counter() - started) / max(len(works), 1)
        for work in works:
            work.seconds["network"] = seconds
        return with_works(table, works)

    def encode(self, works: Sequence[Work]) -> list[Tensor]:
        """The 1xCxhxw embeddings of all crops of all images, one after the other."""
        crops = [crop for work in works for crop in work.crops]
        at_once = self.predictor.images_at_once
        features: list[Tensor] = []
        for first in range(0, len(crops), at_once):
            features += self.predictor.encode_scaled(crops[first : first + at_once])
        return features

    def _encode_each(self, works: Sequence[Work]) -> list[list[Tensor]]:
        """The embeddings of each image's crops, one at a time where all together do not fit."""
        try:
            features = iter(self.encode(works))
            return [[next(features) for _ in work.crops] for work in works]
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Outside of the handler, where the traceback would still hold the tensors that did not fit.
        return [self._encode_alone(work) for work in works]

    def _encode_alone(self, work: Work) -> list[Tensor]:
        with failing_alone(work):
            return [self.predictor.encode_scaled([crop])[0] for crop in work.crops]
        return []

    def ask(self, work: Work, features: Sequence[Tensor], task: Task) -> list[Answer]:
        """What the network answers to a task on an image.

        Arguments:
            work: the image.
            features: the 1xCxhxw embedding of each of its crops.
            task: everything, or the prompts of ``work``.
        """
        if task.everything is not None:
            asker = Asker(self.predictor, list(zip(features, work.sizes, strict=True)))
            generator(asker, task).generate(blank(work.size))
            return asker.answers
        self.predictor.set_features(features[0], work.sizes[0], work.size)
        return [ask_prompts(self.predictor, work.prompts, task.points_per_batch)]
