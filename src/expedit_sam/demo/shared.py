"""What all parts of the page share: a person's session, the choices at the top, friendly errors."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any
from uuid import uuid4

import cv2
import gradio as gr
import numpy as np

from expedit_sam.demo.networks import Cancelled, Networks
from expedit_sam.demo.pictures import Picture
from expedit_sam.errors import InputError, is_out_of_memory

# Options of Gradio's events. LONG work runs one at a time, and so do QUICK clicks, but neither
# waits for the other; INSTANT events wait for nothing.
LONG: dict[str, Any] = {
    "concurrency_id": "long",
    "concurrency_limit": 1,
    "api_visibility": "private",
}
# Long work that depends on the choices: what is chosen while it runs has its turn afterwards.
LATEST: dict[str, Any] = LONG | {"trigger_mode": "always_last"}
QUICK: dict[str, Any] = {
    "concurrency_id": "quick",
    "concurrency_limit": 1,
    "api_visibility": "private",
    "trigger_mode": "multiple",
    "show_progress": "minimal",
}

INSTANT: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
# What is chosen while the answer is on its way has its turn afterwards, or it would be passed over.
INSTANT_LATEST: dict[str, Any] = INSTANT | {"trigger_mode": "always_last"}

CHOOSE_FIRST = (
    "Choose a picture first: upload or drop one, paste one with the clipboard button, "
    "or click an example."
)
ENCODING = "Encoding the picture ..."
OPPOSITE = "Click the opposite corner."


@dataclass
class Task:
    """Long work, which checks from time to time whether it is still wanted."""

    wanted: bool = False

    def stop_if_cancelled(self) -> None:
        """Raise ``Cancelled`` unless it is still wanted."""
        if not self.wanted:
            raise Cancelled


@dataclass
class Session:
    """What the server remembers of one person while the page is open.

    Attributes:
        picture: the picture that was chosen; use ``choose`` to change it.
        tab: the tab that is open.
        task: the long work that was begun last.
    """

    picture: Picture | None = None
    tab: str = "Everything"
    task: Task = field(default_factory=Task)

    def choose(self, picture: Picture | None) -> None:
        """Change the picture, to none even; work on the old one stops."""
        self.task.wanted = False
        self.picture = picture

    def begin(self) -> Task:
        """A new task for long work that begins; the one before it stops."""
        self.task.wanted = False
        self.task = Task(wanted=True)
        return self.task

    def require_picture(self) -> Picture:
        """The picture.

        Raises:
            InputError: there is none.
        """
        if self.picture is None:
            raise InputError(CHOOSE_FIRST)
        return self.picture


@dataclass(frozen=True)
class Shared:
    """The parts of the page above the tabs, and what the tabs wait for.

    Attributes:
        networks: the networks to choose from.
        folder: where pictures for the page and files to download are written.
        session: holds a ``Session``.
        model, speed: the choices.
        chosen: the event of a new picture, already in the session.
    """

    networks: Networks
    folder: Path
    session: gr.State
    model: gr.Radio
    speed: gr.Radio
    chosen: Any

    def shown(self, image: np.ndarray | None) -> str | None:
        """Write an HxWx3 image as a JPEG for the page; its path, or None for no image.

        Each file has a name of its own that nobody can guess. Gradio would name it by its content,
        so that two people with the same image would read and write one file.
        """
        if image is None:
            return None
        path = self.folder / f"{uuid4().hex}.jpg"
        _, encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
        path.write_bytes(encoded.tobytes())
        return str(path)


def friendly(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a handler of events: errors become a line on the page."""

    @wraps(handler)
    def friendly_handler(*arguments: Any, **named: Any) -> Any:
        try:
            return handler(*arguments, **named)
        except Cancelled:
            gr.Info("Cancelled.")
        except Exception as error:
            gr.Warning(_reason(error))  # gr.Error would put "Error" in the place of the picture
        return gr.skip()

    return friendly_handler


def failed(error: Exception) -> str:
    """What went wrong, in a line that takes the place of another on the page."""
    return f"**That did not work:** {_reason(error)}"


def attempted(
    picture: Picture, update: Callable[[], Any], unanswered: Callable[[Picture], Any]
) -> Any:
    """What ``update`` gives; if it raises, ``unanswered`` with the error in ``picture.fault``."""
    picture.fault = None
    try:
        return update()
    except Exception as error:
        picture.fault = failed(error)
        return unanswered(picture)


def _reason(error: Exception) -> str:
    """A line for the person; a bug of ours leaves its traceback in the terminal."""
    if isinstance(error, InputError):
        return str(error)
    if is_out_of_memory(error):
        return "Out of memory: try a smaller picture or model."
    traceback.print_exception(error)
    return "The program has a fault, which its terminal tells of: try another picture or model."


def entered(tab: gr.Tab, shared: Shared) -> Any:
    """The event of a tab being opened, which the session then knows."""

    def enter(session: Session) -> None:
        session.tab = str(tab.label)

    return tab.select(enter, shared.session, None, **INSTANT_LATEST)


def picture_view(label: str, name: str) -> gr.Image:
    """A picture that shows results and can be clicked; nothing lies over it."""
    return gr.Image(
        label=label,
        show_label=False,
        interactive=False,
        buttons=[],
        elem_id=name,
        elem_classes="picture",
        alt_text=label,
    )
