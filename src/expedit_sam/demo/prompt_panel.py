"""Clicking prompts onto pictures: the controls beside them, and by keyboard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from expedit_sam.demo.clicks import Clicks
from expedit_sam.demo.pictures import Picture
from expedit_sam.demo.shared import QUICK, Session, Shared, friendly
from expedit_sam.draw import draw_prompts
from expedit_sam.errors import InputError

_KINDS = [("Include", "include"), ("Exclude", "exclude"), ("Box: two corners", "corner")]


class PromptPanel:
    """Controls for the prompts of one tab; ``connect`` them once everything is built."""

    def __init__(self, name: str) -> None:
        self.kind = gr.Radio(_KINDS, value="include", label="A click means", elem_id=f"{name}-kind")
        with gr.Row():
            self.undo = gr.Button("Undo", min_width=100, elem_id=f"{name}-undo")
            self.clear = gr.Button("Clear", min_width=100, elem_id=f"{name}-clear")
        with gr.Accordion("Without a mouse", open=False, elem_id=f"{name}-keyboard"):
            with gr.Row():
                self.x, self.y = (
                    gr.Number(
                        0,
                        label=f"{axis} in pixels of the uploaded picture",
                        precision=0,
                        min_width=80,
                        elem_id=f"{name}-{axis}",
                    )
                    for axis in "xy"
                )
            self.add = gr.Button("Click there", elem_id=f"{name}-add")

    def connect(
        self,
        shared: Shared,
        views: Sequence[gr.Image],
        clicks_of: Callable[[Picture], Clicks],
        update: Callable[..., Any],
        unanswered: Callable[[Picture], Any],
        inputs: list[Any],
        outputs: list[Any],
    ) -> None:
        """Let clicks and buttons change the prompts.

        Arguments:
            shared: the rest of the page.
            views: the pictures that can be clicked.
            clicks_of: which prompts of a picture these are.
            update: called with the picture and ``inputs``, a network and its speeds, after each
                change; gives ``outputs``.
            unanswered: gives ``outputs`` while the picture is still being encoded, which no click
                waits for.
        """

        def answer(picture: Picture, model: str, *speeds: str) -> Any:
            if all(picture.is_encoded(model, speed) for speed in speeds):
                return update(picture, model, *speeds)
            return unanswered(picture)

        @friendly
        def on_picture(event: gr.SelectData, session: Session, kind: Any, *rest: Any) -> Any:
            return place(session, kind, *event.index, *rest)

        @friendly
        def place(session: Session, kind: Any, x: float, y: float, *rest: Any) -> Any:
            picture = session.require_picture()
            clicks_of(picture).add(x, y, kind, picture.image.shape)
            return answer(picture, *rest)

        @friendly
        def place_typed(
            session: Session, kind: Any, x: float | None, y: float | None, *rest: Any
        ) -> Any:
            picture = session.require_picture()
            if x is None or y is None:
                raise InputError("Type both x and y.")
            return place(session, kind, *picture.place_on_page(x, y), *rest)

        @friendly
        def undo(session: Session, *rest: Any) -> Any:
            picture = session.require_picture()
            clicks_of(picture).undo()
            return answer(picture, *rest)

        @friendly
        def clear(session: Session, *rest: Any) -> Any:
            picture = session.require_picture()
            clicks_of(picture).clear()
            return answer(picture, *rest)

        for view in views:
            view.select(on_picture, [shared.session, self.kind, *inputs], outputs, **QUICK)
        self.add.click(
            place_typed, [shared.session, self.kind, self.x, self.y, *inputs], outputs, **QUICK
        )
        self.undo.click(undo, [shared.session, *inputs], outputs, **QUICK)
        self.clear.click(clear, [shared.session, *inputs], outputs, **QUICK)


def draw_clicks(image: Any, clicks: Clicks) -> Any:
    """Draw prompts on an HxWx3 image; a corner that waits for its opposite is a tiny box."""
    drawn = draw_prompts(image, clicks.points, clicks.labels, clicks.box)
    corner = clicks.open_corner
    if corner is not None:
        reach = max(3, round(max(image.shape[:2]) / 200))
        around = (corner.x - reach, corner.y - reach, corner.x + reach, corner.y + reach)
        drawn = draw_prompts(drawn, box=around)
    return drawn
