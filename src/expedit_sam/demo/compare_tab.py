"""The Compare tab: the same prompts under two speed settings, and where the masks differ."""

from __future__ import annotations

import time
from typing import Any

import gradio as gr
import numpy as np

from expedit_sam.demo.compare import difference
from expedit_sam.demo.masks import candidates
from expedit_sam.demo.pictures import Picture
from expedit_sam.demo.prompt_panel import PromptPanel, draw_clicks
from expedit_sam.demo.shared import (
    ENCODING,
    INSTANT,
    LATEST,
    OPPOSITE,
    Session,
    Shared,
    attempted,
    entered,
    friendly,
    picture_view,
)
from expedit_sam.draw import overlay
from expedit_sam.evaluate.metrics import iou
from expedit_sam.hourglass import PRESETS

_READY = "Click a thing in either picture. Both settings are asked for it."


class CompareTab:
    """The tab; ``connect`` it once the page is built."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        speeds = list(PRESETS)
        with gr.Tab("Compare") as self.tab:
            with gr.Row():
                with gr.Column(min_width=300):
                    self.first = gr.Radio(speeds, value="exact", label="Speed A", elem_id="first")
                    first_view = picture_view("Mask at speed A", "first-picture")
                with gr.Column(min_width=300):
                    self.second = gr.Radio(speeds, value="fast", label="Speed B", elem_id="second")
                    second_view = picture_view("Mask at speed B", "second-picture")
            with gr.Row():
                with gr.Column(min_width=300):
                    self.panel = PromptPanel("compare")
                    self.status = gr.Markdown(_READY, elem_id="compare-status")
                with gr.Column(min_width=300):
                    gr.Markdown(
                        "**Difference**: blue is only in A, orange only in B, grey in both.",
                    )
                    difference_view = picture_view("Where the masks differ", "difference")
        self.views = [first_view, second_view]
        self.result = [*self.views, difference_view, self.status]

    def connect(self) -> None:
        """Let pictures, clicks and choices do what they are for."""
        shared, status = self.shared, self.status
        choices = [shared.model, self.first, self.second]
        asked = [shared.session, *choices]
        self.panel.connect(
            shared,
            self.views,
            lambda picture: picture.compared,
            self._update,
            self._unanswered,
            choices,
            self.result,
        )
        for event in (shared.chosen, entered(self.tab, shared)):
            event.then(self._show, shared.session, self.result, **INSTANT).then(
                self._encode, asked, self.result, show_progress_on=status, **LATEST
            )
        for choice in choices:
            choice.input(self._encode, asked, self.result, show_progress_on=status, **LATEST)

    def _update(self, picture: Picture, model: str, first: str, second: str) -> list[Any]:
        views, masks, words = [], [], []
        for letter, speed in (("A", first), ("B", second)):
            view, mask, word = _answer(picture, self.shared, model, speed)
            views.append(self.shared.shown(view))
            masks.append(mask)
            words.append(f"- **{letter}, {speed}**: {word}")
        changed, line = None, _READY
        if masks[0] is not None and masks[1] is not None:
            changed = self.shared.shown(difference(picture.image, masks[0], masks[1]))
            line = f"**IoU of A and B: {iou(masks[0], masks[1]):.3f}** (1: the same mask)"
        if picture.compared.open_corner:
            line = OPPOSITE
        return [*views, changed, "\n".join([line, "", *words])]

    def _unanswered(self, picture: Picture) -> list[Any]:
        view = self.shared.shown(draw_clicks(picture.image, picture.compared))
        return [view, view, None, picture.fault or ENCODING]

    def _show(self, session: Session) -> list[Any]:
        if session.picture is None or session.tab != self.tab.label:
            return [None, None, None, _READY]
        session.picture.fault = None
        return self._unanswered(session.picture)

    @friendly
    def _encode(self, session: Session, *choices: str) -> list[Any]:
        """Encode while the person looks for a thing to click."""
        picture = session.picture
        if picture is None or session.tab != self.tab.label:
            return [None, None, None, _READY]
        return attempted(picture, lambda: self._update(picture, *choices), self._unanswered)


def _answer(
    picture: Picture, shared: Shared, model: str, speed: str
) -> tuple[Any, np.ndarray | None, str]:
    """A setting's picture, its best mask, and its times."""
    encoding = picture.encoding(shared.networks, model, speed)
    started = time.perf_counter()
    guesses = candidates(encoding, picture.compared)
    seconds = time.perf_counter() - started
    if guesses is None:
        drawn = draw_clicks(picture.image, picture.compared)
        return drawn, None, f"encoded in {encoding.seconds:.2f} s"
    drawn = draw_clicks(overlay(picture.image, [guesses.masks[0]]), picture.compared)
    times = f"encode {encoding.seconds:.2f} s, masks {seconds:.2f} s"
    return drawn, guesses.masks[0], f"{times}, expects an IoU of {guesses.scores[0]:.2f}"
