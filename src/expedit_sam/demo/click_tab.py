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


class ClickTab:
    """The tab; ``connect`` it once the page is built."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        with gr.Tab("Click") as self.tab, gr.Row():
            with gr.Column(scale=3, min_width=300):
                self.view = picture_view("Click a thing", "click-picture")
            with gr.Column(scale=2, min_width=300):
                self.panel = PromptPanel("click")
                self.candidate = gr.Radio(
                    [],
                    label="Which mask is meant",
                    info="The network's three guesses, and how well it expects each to fit: "
                    "an IoU of 1 is a perfect mask.",
                    visible=False,
                    elem_id="candidate",
                )
                self.status = gr.Markdown(_READY, elem_id="click-status")
                self.downloads = DownloadPanel("click", "Cut-out with transparent background, mask")
        self.result = [self.view, self.candidate, self.status, *self.downloads.outputs]

    def connect(self) -> None:
        """Let pictures, clicks and choices do what they are for."""
        shared, session, view, status = self.shared, self.shared.session, self.view, self.status
        choices = [shared.model, shared.speed]
        self.panel.connect(
            shared,
            [view],
            lambda picture: picture.clicks,
            self._update,
            self._unanswered,
            choices,
            self.result,
        )
        for event in (shared.chosen, entered(self.tab, shared)):
            event.then(self._show, [session, *choices], [view, status], **INSTANT).then(
                self._encode, [session, *choices], self.result, show_progress_on=status, **LATEST
            )
        for choice in choices:
            choice.input(
                self._encode, [session, *choices], self.result, show_progress_on=status, **LATEST
            )
        picked = [session, self.candidate]
        self.candidate.input(self._pick, picked, [view, *self.downloads.outputs], **QUICK)
        self.downloads.connect(self._write, picked)

    def _drawn(self, picture: Picture, index: int) -> str | None:
        masks = [] if picture.candidates is None else [picture.candidates[1].masks[index]]
        return self.shared.shown(draw_clicks(overlay(picture.image, masks), picture.clicks))

    def _update(self, picture: Picture, model: str, speed: str) -> list[Any]:
        encoding = picture.encoding(self.shared.networks, model, speed)
        started = time.perf_counter()
        guesses = candidates(encoding, picture.clicks)
        picture.candidates = None if guesses is None else (encoding, guesses)
        if guesses is None:
            ready = f"{_READY} It was encoded in {encoding.seconds:.2f} s."
            line = OPPOSITE if picture.clicks.open_corner else ready
            return [self._drawn(picture, 0), _no_choice(), line, *self.downloads.closed()]
        seconds = time.perf_counter() - started
        times = (
            f"Masks in {seconds:.2f} s. The picture was encoded once, in {encoding.seconds:.2f} s."
        )
        choices = [(f"IoU {score:.2f}", index) for index, score in enumerate(guesses.scores)]
        return [
            self._drawn(picture, 0),
            gr.Radio(choices=choices, value=0, visible=True),
            OPPOSITE if picture.clicks.open_corner else times,
            *self.downloads.offered(),
        ]

    def _unanswered(self, picture: Picture) -> list[Any]:
        picture.candidates = None
        line = picture.fault or ENCODING
        return [self._drawn(picture, 0), _no_choice(), line, *self.downloads.closed()]

    def _show(self, session: Session, model: str, speed: str) -> list[Any]:
        if session.picture is None or session.tab != self.tab.label:
            return [None, _READY]
        if session.picture.has_candidates(model, speed):
            return [gr.skip(), gr.skip()]
        session.picture.fault = None
        return [self._drawn(session.picture, 0), ENCODING]

    @friendly
    def _encode(self, session: Session, model: str, speed: str) -> list[Any]:
        """Encode while the person looks for a thing to click."""
        picture = session.picture
        if picture is not None and picture.has_candidates(model, speed):
            return [gr.skip()] * len(self.result)  # a guess may be chosen, and files prepared
        if picture is not None and session.tab == self.tab.label:
            return attempted(picture, lambda: self._update(picture, model, speed), self._unanswered)
        if picture is not None:
            picture.candidates = None  # they leave the page
        return [None, _no_choice(), _READY, *self.downloads.closed()]

    @friendly
    def _pick(self, session: Session, index: int | None) -> list[Any]:
        return [self._drawn(session.require_picture(), index or 0), *self.downloads.offered()]

    @friendly
    def _write(self, session: Session, index: int | None) -> list[str]:
        picture = session.require_picture()
        if picture.candidates is None:
            raise InputError("There is no mask yet: click a thing first.")
        encoding, guesses = picture.candidates
        return write_cutout(picture, encoding, guesses.logits[index or 0], self.shared.folder)


def _no_choice() -> gr.Radio:
    return gr.Radio(choices=[], value=None, visible=False)
