"""What a person sees while a command works."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from expedit_sam.errors import one_line

if TYPE_CHECKING:
    from typing_extensions import Self


def passing_bar() -> Progress:
    """A bar on standard error that goes when the work is done; none where that is no terminal."""
    console = Console(stderr=True)
    return Progress(console=console, disable=not console.is_terminal, transient=True)


class _Bars:
    """Bars on standard error; none where that is no terminal."""

    def __init__(self, *columns: ProgressColumn) -> None:
        console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
        self._bars = Progress(*columns, console=console, disable=not console.is_terminal)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()


class ImageProgress(_Bars):
    """A bar over images and one over the points of the current image, on standard error.

    Where that is no terminal there are no bars, only the lines of ``end``.
    """

    def __init__(self, images: int) -> None:
        name = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True))
        super().__init__(name, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._images = self._bars.add_task("images", total=images, visible=images > 1)
        self._points = self._bars.add_task("", total=None)

    def begin(self, image: str) -> None:
        """The next image begins."""
        self._bars.reset(self._points, description=f"points of {one_line(image)}", total=None)

    def points(self, done: int, total: int) -> None:
        """So many of its points are done."""
        self._bars.update(self._points, completed=done, total=total)

    def end(self, result: str) -> None:
        """The image is done; print its result as a line."""
        self._bars.console.print(one_line(result))
        self._bars.advance(self._images)


class BatchProgress(_Bars):
    """A bar over the images of a batch, with rate and remaining time, on standard error.

    Where that is no terminal, it prints a line a minute.
    """

    def __init__(self) -> None:
        super().__init__(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]} images/s, {task.fields[failed]} failed, left:"),
            TimeRemainingColumn(),
        )
        self._task = self._bars.add_task("", total=None, rate="0.0", failed=0)
        self._last_printed = time.monotonic()

    def update(self, done: int, total: int, failed: int, seconds: float) -> None:
        """Show how many of this run's images are done and failed, after so many seconds."""
        rate = done / max(seconds, 1e-9)
        self._bars.update(
            self._task, completed=done, total=total, rate=f"{rate:.2f}", failed=failed
        )
        if self._bars.disable and time.monotonic() - self._last_printed > 60:
            self._last_printed = time.monotonic()
            minutes = (total - done) / rate / 60 if rate else float("inf")
            self._bars.console.print(
                f"{done} of {total} images, {rate:.2f} images/s, {failed} failed, "
                f"left: {minutes:.0f} min"
            )
