"""Prompts of a data set, in the form that they have in every table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from expedit_sam.errors import InputError

# As ``schema.PROMPT``: points [[x, y], ...] or none, their labels, and a box or None.
Prompt = dict[str, Any]

_FARTHEST = 1e6  # pixels from the image's corner; boxes may reach over its edge


def box_prompt(box: Iterable[float]) -> Prompt:
    """A box (x0, y0, x1, y1)."""
    return {"points": [], "labels": [], "box": [float(value) for value in box]}


def points_prompt(points: Iterable[Iterable[float]], labels: Iterable[int]) -> Prompt:
    """Points (x, y) that together mean one mask, each to include (1) or exclude (0)."""
    return {
        "points": [[float(value) for value in point] for point in points],
        "labels": [_whole(label) for label in labels],
        "box": None,
    }


def _whole(label: Any) -> Any:
    """A label as an integer; a fraction stays one, for ``check_prompts`` to refuse."""
    return int(label) if int(label) == float(label) else label


def prompts_of(row: dict[str, Any]) -> list[Prompt] | None:
    """Prompts as data sets write them: ``boxes``, ``points``, ``labels``.

    Each of the ``boxes`` is a prompt. Of ``points`` without ``labels`` each is a prompt;
    with ``labels`` all of them are one.

    Returns:
        None where there is none of the three.

    Raises:
        InputError: they have another form.
    """
    boxes, points, labels = (row.get(name) for name in ("boxes", "points", "labels"))
    if boxes is None and points is None:
        return None
    try:
        prompts = [box_prompt(box) for box in _or_empty(boxes)]
        if labels is not None and len(_or_empty(points)):
            prompts.append(points_prompt(_or_empty(points), labels))
        else:
            prompts += [points_prompt([point], [1]) for point in _or_empty(points)]
    except (TypeError, ValueError, OverflowError):
        raise InputError("prompts must be boxes [[x0, y0, x1, y1]] or points [[x, y]]") from None
    check_prompts(prompts)
    return prompts


def check_prompts(prompts: Sequence[Prompt]) -> None:
    """Raise ``InputError`` unless each is a prompt that a network can take."""
    for prompt in prompts:
        points, labels, box = prompt["points"] or [], prompt["labels"] or [], prompt["box"]
        if not points and box is None:
            raise InputError("a prompt is empty: it needs points or a box")
        if any(len(point) != 2 for point in points):
            raise InputError(f"points {points} are no [x, y]")
        if len(points) != len(labels):
            raise InputError(f"{len(labels)} labels for {len(points)} points: give one a point")
        if any(label not in (0, 1) for label in labels):
            raise InputError(f"labels {labels} must be 1 (include) or 0 (exclude)")
        if box is not None and not (len(box) == 4 and box[0] <= box[2] and box[1] <= box[3]):
            raise InputError(f"box {box} is no [x0, y0, x1, y1] with x0<=x1 and y0<=y1")
        numbers = [value for point in points for value in point] + list(box or [])
        if not all(abs(value) <= _FARTHEST for value in numbers):  # nor NaN
            raise InputError(f"a prompt is nowhere near an image: {points or box}")


def _or_empty(values: Any) -> Any:
    return [] if values is None else values
