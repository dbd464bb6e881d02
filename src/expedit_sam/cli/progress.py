"""What a person sees while images are segmented."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column


class ImageProgress:
    """A bar over images and one over the points of the current image, on standard error.

    Where that is no terminal there are no bars, only what ``tell`` says.
    """

    def __init__(self, images: int) -> None:
        console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
        name = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True))
        self._bars = Progress(
            name,
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._images = self._bars.add_task("images", total=images, visible=images > 1)
        self._points = self._bars.add_task("", total=None)

    def __enter__(self) -> ImageProgress:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def begin(self, image: str) -> None:
        """The next image begins."""
        self._bars.reset(self._points, description=f"points of {image}", total=None)

    def points(self, done: int, total: int) -> None:
        """So many of its points are done."""
        self._bars.update(self._points, completed=done, total=total)

    def end(self, result: str) -> None:
        """The image is done, with this result."""
        self._bars.console.print(result)
        self._bars.advance(self._images)
