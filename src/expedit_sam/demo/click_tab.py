"""The Click tab: the mask of what is clicked, to keep as a cut-out."""

from __future__ import annotations

import time
from typing import Any

import gradio as gr

from expedit_sam.demo.download_panel import DownloadPanel
from expedit_sam.demo.downloads import write_cutout
from expedit_sam.demo.masks import candidates
from expedit_sam.demo.pictures import Picture
from expedit_sam.demo.prompt_panel import PromptPanel, draw_clicks
from expedit_sam.demo.shared import (
    ENCODING,
    INSTANT,
    LATEST,
    OPPOSITE,
    QUICK,
    Session,
    Shared,
    attempted,
    entered,
    friendly,
    picture_view,
)
from expedit_sam.draw import overlay
from expedit_sam.errors import InputError

_READY = "Click a thing in the picture."


def click_tab(shared: Shared) -> None:
    """Build the tab and connect it."""
    networks, session = shared.networks, shared.session
    with gr.Tab("Click") as tab, gr.Row():
        with gr.Column(scale=3, min_width=300):
            view = picture_view("Click a thing", "click-picture")
        with gr.Column(scale=2, min_width=300):
            panel = PromptPanel("click")
            candidate = gr.Radio(
                [],
                label="Which mask is meant",
                info="The network's three guesses, and how well it expects each to fit: "
                "an IoU of 1 is a perfect mask.",
                visible=False,
                elem_id="candidate",
            )
            status = gr.Markdown(_READY, elem_id="click-status")
            downloads = DownloadPanel("click", "Cut-out with transparent background, mask")
    result = [view, candidate, status, *downloads.outputs]

    def drawn(picture: Picture, index: int) -> str | None:
        masks = [] if picture.candidates is None else [picture.candidates[1].masks[index]]
        return shared.shown(draw_clicks(overlay(picture.image, masks), picture.clicks))

    def update(picture: Picture, model: str, speed: str) -> list[Any]:
        encoding = picture.encoding(networks, model, speed)
        started = time.perf_counter()
        guesses = candidates(encoding, picture.clicks)
        picture.candidates = None if guesses is None else (encoding, guesses)
        if guesses is None:
            ready = f"{_READY} It was encoded in {encoding.seconds:.2f} s."
            line = OPPOSITE if picture.clicks.open_corner else ready
            return [drawn(picture, 0), _no_choice(), line, *downloads.closed()]
        seconds = time.perf_counter() - started
        times = (
            f"Masks in {seconds:.2f} s. The picture was encoded once, in {encoding.seconds:.2f} s."
        )
        choices = [(f"IoU {score:.2f}", index) for index, score in enumerate(guesses.scores)]
        return [
            drawn(picture, 0),
            gr.Radio(choices=choices, value=0, visible=True),
            OPPOSITE if picture.clicks.open_corner else times,
            *downloads.offered(),
        ]

    def unanswered(picture: Picture) -> list[Any]:
        picture.candidates = None
        return [drawn(picture, 0), _no_choice(), picture.fault or ENCODING, *downloads.closed()]

    def show(session: Session, model: str, speed: str) -> list[Any]:
        if session.picture is None or session.tab != tab.label:
            return [None, _READY]
        if session.picture.has_candidates(model, speed):
            return [gr.skip(), gr.skip()]
        session.picture.fault = None
        return [drawn(session.picture, 0), ENCODING]

    @friendly
    def encode(session: Session, model: str, speed: str) -> list[Any]:
        """Encode while the person looks for a thing to click."""
        picture = session.picture
        if picture is not None and picture.has_candidates(model, speed):
            return [gr.skip()] * len(result)  # a guess may be chosen, and files prepared
        if picture is not None and session.tab == tab.label:
            return attempted(picture, lambda: update(picture, model, speed), unanswered)
        if picture is not None:
            picture.candidates = None  # they leave the page
        return [None, _no_choice(), _READY, *downloads.closed()]

    @friendly
    def pick(session: Session, index: int | None) -> list[Any]:
        return [drawn(session.require_picture(), index or 0), *downloads.offered()]

    @friendly
    def write(session: Session, index: int | None) -> list[str]:
        picture = session.require_picture()
        if picture.candidates is None:
            raise InputError("There is no mask yet: click a thing first.")
        encoding, guesses = picture.candidates
        return write_cutout(picture, encoding, guesses.logits[index or 0], shared.folder)

    choices = [shared.model, shared.speed]
    panel.connect(
        shared, [view], lambda picture: picture.clicks, update, unanswered, choices, result
    )
    for event in (shared.chosen, entered(tab, shared)):
        event.then(show, [session, *choices], [view, status], **INSTANT).then(
            encode, [session, *choices], result, show_progress_on=status, **LATEST
        )
    for choice in choices:
        choice.input(encode, [session, *choices], result, show_progress_on=status, **LATEST)
    candidate.input(pick, [session, candidate], [view, *downloads.outputs], **QUICK)
    downloads.connect(write, [session, candidate])


def _no_choice() -> gr.Radio:
    return gr.Radio(choices=[], value=None, visible=False)
