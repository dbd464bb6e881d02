"""What a person has clicked on a picture, as prompts that can be taken back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Kind = Literal["include", "exclude", "corner"]


@dataclass(frozen=True)
class Click:
    """A place on the picture, in pixels of the page's copy, and what it means."""

    x: int
    y: int
    kind: Kind


@dataclass
class Clicks:
    """Clicks in their order: points, and corners of boxes, of which the last whole box counts."""

    history: list[Click] = field(default_factory=list)

    def add(self, x: float, y: float, kind: Kind, size: tuple[int, ...]) -> None:
        """Add a click, moved onto the picture of ``size`` (H, W) if it lies outside."""
        height, width = size[:2]
        click = Click(
            int(np.clip(round(x), 0, width - 1)), int(np.clip(round(y), 0, height - 1)), kind
        )
        self.history.append(click)

    def undo(self) -> None:
        """Take back the last click, if there is one."""
        if self.history:
            self.history.pop()

    def clear(self) -> None:
        """Take back all clicks."""
        self.history.clear()

    @property
    def points(self) -> np.ndarray:
        """Nx2 points (x, y)."""
        return np.array([(c.x, c.y) for c in self._points], dtype=float).reshape(-1, 2)

    @property
    def labels(self) -> np.ndarray:
        """N labels, 1 include and 0 exclude."""
        return np.array([c.kind == "include" for c in self._points], dtype=int)

    @property
    def box(self) -> np.ndarray | None:
        """The last box (x0, y0, x1, y1) of which both corners are there."""
        whole = self._corners[: len(self._corners) // 2 * 2]
        if not whole:
            return None
        corners = np.array([(c.x, c.y) for c in whole[-2:]], dtype=float)
        return np.concatenate([corners.min(axis=0), corners.max(axis=0)])

    @property
    def open_corner(self) -> Click | None:
        """The corner that waits for its opposite."""
        return self._corners[-1] if len(self._corners) % 2 else None

    @property
    def is_prompt(self) -> bool:
        """Whether there is anything that a network can be asked."""
        return bool(self._points) or self.box is not None

    @property
    def _points(self) -> list[Click]:
        return [click for click in self.history if click.kind != "corner"]

    @property
    def _corners(self) -> list[Click]:
        return [click for click in self.history if click.kind == "corner"]
