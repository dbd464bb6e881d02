"""One contestant on one image: prompts in, figures out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from expedit_sam.evaluate import prompts
from expedit_sam.evaluate.contestants import Answer, Contestant, Prompts
from expedit_sam.evaluate.metrics import best_overlaps, boundary_f, iou
from expedit_sam.evaluate.records import Figures
from expedit_sam.everything.rle import Rle, decode_mask, encode_masks

_PROMPTS_AT_ONCE = 32
_PIXELS_AT_ONCE = 2**24  # of the image, times prompts

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """What a contestant made of one image.

    Attributes:
        figures: by prompt and metric, one value a region or one for the image.
        masks: by prompt, the chosen mask of each region, or all masks of everything mode.
    """

    figures: Figures
    masks: dict[str, list[Rle]]


class Trial:
    """One image, its true regions, and prompts for them that are the same for every contestant.

    Arguments:
        image: HxWx3 uint8.
        truth: the true regions.
        kinds: which prompts, of ``prompts.KINDS``.
        random: for jittered boxes.
    """

    def __init__(
        self,
        image: np.ndarray,
        truth: Sequence[Rle],
        kinds: Sequence[str],
        random: np.random.Generator,
    ) -> None:
        self._image, self._truth, self._kinds = image, truth, kinds
        self._noise = random.standard_normal((len(truth), 4))

    def run(self, contestant: Contestant, exact: Outcome | None) -> Outcome:
        """Measure a contestant, against the exact network's outcome if that is given too."""
        kinds = [kind for kind in self._kinds if kind in contestant.kinds]
        outcome = Outcome({kind: {} for kind in kinds}, {kind: [] for kind in kinds})
        if prompted := [kind for kind in kinds if kind != prompts.EVERYTHING]:
            self._run_prompts(contestant, prompted, outcome, exact)
        if prompts.EVERYTHING in kinds:
            self._run_everything(contestant, outcome, exact)
        return outcome

    def _run_prompts(
        self, contestant: Contestant, kinds: list[str], outcome: Outcome, exact: Outcome | None
    ) -> None:
        _, encoding = _timed(lambda: contestant.set_image(self._image))
        seconds = dict.fromkeys(kinds, 0.0)
        step = max(1, min(_PROMPTS_AT_ONCE, _PIXELS_AT_ONCE // self._image[..., 0].size))
        for start in range(0, len(self._truth), step):
            here = slice(start, start + step)
            truth = np.stack([decode_mask(rle) for rle in self._truth[here]])
            for kind, answer, spent in _ask(contestant, truth, kinds, self._noise[here]):
                seconds[kind] += spent
                _score(kind, here, answer, truth, outcome, exact)
        for kind in kinds:
            one_prompt = seconds[kind] / max(1, len(self._truth))
            outcome.figures[kind]["encoder_seconds"] = [encoding]
            outcome.figures[kind]["seconds"] = [encoding + one_prompt]

    def _run_everything(
        self, contestant: Contestant, outcome: Outcome, exact: Outcome | None
    ) -> None:
        masks, seconds = _timed(lambda: contestant.everything(self._image))
        reached = best_overlaps(self._truth, masks)
        figures = {
            "iou": reached,
            "recall_50": (reached >= 0.5).astype(float),
            "recall_75": (reached >= 0.75).astype(float),
            "masks": np.array([float(len(masks))]),
            "seconds": np.array([seconds]),
        }
        if exact is not None:
            figures["same_as_exact"] = best_overlaps(exact.masks[prompts.EVERYTHING], masks)
            figures["change"] = reached - exact.figures[prompts.EVERYTHING]["iou"]
        outcome.figures[prompts.EVERYTHING] = {k: v.tolist() for k, v in figures.items()}
        outcome.masks[prompts.EVERYTHING] = masks


def _ask(
    contestant: Contestant, truth: np.ndarray, kinds: Sequence[str], noise: np.ndarray
) -> Iterator[tuple[str, Answer, float]]:
    """Each kind of prompt for PxHxW regions, its answer and the seconds that took."""
    yield from _ask_clicks(contestant, truth, kinds)
    boxes = np.stack([prompts.bounding_box(mask) for mask in truth])
    if "box" in kinds:
        yield "box", *_timed(lambda: contestant.ask(Prompts(boxes=boxes)))
    if "jittered-box" in kinds:
        moved = prompts.jittered_boxes(boxes, noise, truth.shape[1:])
        yield "jittered-box", *_timed(lambda: contestant.ask(Prompts(boxes=moved)))


def _ask_clicks(
    contestant: Contestant, truth: np.ndarray, kinds: Sequence[str]
) -> Iterator[tuple[str, Answer, float]]:
    """Rounds of clicks, each after the first where the mask so far is most wrong."""
    ends = {prompts.CLICKS[kind]: kind for kind in kinds if kind in prompts.CLICKS}
    points = np.zeros((len(truth), 0, 2))
    labels = np.zeros((len(truth), 0), np.int32)
    answer, seconds = None, 0.0
    for number in range(1, max(ends, default=0) + 1):
        masks = np.zeros_like(truth) if answer is None else answer.chosen
        clicks = [prompts.correcting_click(*pair) for pair in zip(masks, truth, strict=True)]
        new_points, new_labels = zip(*clicks, strict=True)
        points = np.concatenate([points, np.array(new_points, float)[:, None]], axis=1)
        labels = np.concatenate([labels, np.array(new_labels, np.int32)[:, None]], axis=1)
        started = time.perf_counter()
        answer = contestant.ask(Prompts(points, labels, before=answer))
        seconds += time.perf_counter() - started
        if number in ends:
            yield ends[number], answer, seconds


def _score(
    kind: str,
    here: slice,
    answer: Answer,
    truth: np.ndarray,
    outcome: Outcome,
    exact: Outcome | None,
) -> None:
    """Compare the answers for some regions with the truth, and with the exact network's."""
    chosen = answer.chosen
    figures = {
        "iou": iou(chosen, truth),
        "boundary_f": np.array([boundary_f(*pair) for pair in zip(chosen, truth, strict=True)]),
    }
    if answer.candidates.shape[1] > 1:
        figures["best_iou"] = iou(answer.candidates, truth[:, None]).max(axis=1)
    if exact is not None:
        exact_masks = np.stack([decode_mask(rle) for rle in exact.masks[kind][here]])
        figures["same_as_exact"] = iou(chosen, exact_masks)
        figures["change"] = figures["iou"] - exact.figures[kind]["iou"][here]
    for name, values in figures.items():
        outcome.figures[kind].setdefault(name, []).extend(values.tolist())
    outcome.masks[kind].extend(encode_masks(torch.from_numpy(chosen)))


def _timed(run: Callable[[], T]) -> tuple[T, float]:
    started = time.perf_counter()
    result = run()
    return result, time.perf_counter() - started
