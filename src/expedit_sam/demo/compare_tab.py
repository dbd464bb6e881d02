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


def compare_tab(shared: Shared) -> None:
    """Build the tab and connect it."""
    session = shared.session
    with gr.Tab("Compare") as tab:
        with gr.Row():
            with gr.Column(min_width=300):
                first = gr.Radio(list(PRESETS), value="exact", label="Speed A", elem_id="first")
                first_view = picture_view("Mask at speed A", "first-picture")
            with gr.Column(min_width=300):
                second = gr.Radio(list(PRESETS), value="fast", label="Speed B", elem_id="second")
                second_view = picture_view("Mask at speed B", "second-picture")
        with gr.Row():
            with gr.Column(min_width=300):
                panel = PromptPanel("compare")
                status = gr.Markdown(_READY, elem_id="compare-status")
            with gr.Column(min_width=300):
                gr.Markdown(
                    "**Difference**: blue is only in A, orange only in B, grey in both.",
                )
                difference_view = picture_view("Where the masks differ", "difference")
    result = [first_view, second_view, difference_view, status]

    def update(picture: Picture, model: str, first: str, second: str) -> list[Any]:
        views, masks, words = [], [], []
        for letter, speed in (("A", first), ("B", second)):
            view, mask, word = _answer(picture, shared, model, speed)
            views.append(shared.shown(view))
            masks.append(mask)
            words.append(f"- **{letter}, {speed}**: {word}")
        changed, line = None, _READY
        if masks[0] is not None and masks[1] is not None:
            changed = shared.shown(difference(picture.image, masks[0], masks[1]))
            line = f"**IoU of A and B: {iou(masks[0], masks[1]):.3f}** (1: the same mask)"
        if picture.compared.open_corner:
            line = OPPOSITE
        return [*views, changed, "\n".join([line, "", *words])]

    def unanswered(picture: Picture) -> list[Any]:
        view = shared.shown(draw_clicks(picture.image, picture.compared))
        return [view, view, None, picture.fault or ENCODING]

    def show(session: Session) -> list[Any]:
        if session.picture is None or session.tab != tab.label:
            return [None, None, None, _READY]
        session.picture.fault = None
        return unanswered(session.picture)

    @friendly
    def encode(session: Session, *choices: str) -> list[Any]:
        """Encode while the person looks for a thing to click."""
        picture = session.picture
        if picture is None or session.tab != tab.label:
            return [None, None, None, _READY]
        return attempted(picture, lambda: update(picture, *choices), unanswered)

    choices = [shared.model, first, second]
    panel.connect(
        shared,
        [first_view, second_view],
        lambda picture: picture.compared,
        update,
        unanswered,
        choices,
        result,
    )
    for event in (shared.chosen, entered(tab, shared)):
        event.then(show, session, result, **INSTANT).then(
            encode, [session, *choices], result, show_progress_on=status, **LATEST
        )
    for choice in choices:
        choice.input(encode, [session, *choices], result, show_progress_on=status, **LATEST)


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
