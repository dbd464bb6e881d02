"""The Everything tab: all masks of a picture, each with its area and scores."""

from __future__ import annotations

from typing import Any

import cv2
import gradio as gr
import numpy as np

from expedit_sam.demo.download_panel import DownloadPanel
from expedit_sam.demo.downloads import write_everything
from expedit_sam.demo.masks import mask_at
from expedit_sam.demo.networks import Found
from expedit_sam.demo.pictures import Picture
from expedit_sam.demo.shared import (
    INSTANT,
    LONG,
    QUICK,
    Session,
    Shared,
    entered,
    friendly,
    picture_view,
)
from expedit_sam.draw import binary_mask, overlay
from expedit_sam.errors import InputError

_READY = "Press **Find masks**."
_RUN_FIRST = "There are no masks yet: press Find masks first."


class EverythingTab:
    """The tab; ``connect`` it once the page is built."""

    def __init__(self, shared: Shared) -> None:
        self.shared, self.networks = shared, shared.networks
        with gr.Tab("Everything") as self.tab, gr.Row():
            with gr.Column(scale=3, min_width=300):
                self.view = picture_view("Masks of everything", "everything-picture")
            with gr.Column(scale=2, min_width=300):
                self.grid = gr.Slider(
                    4,
                    64,
                    self.networks.points_per_side(self.networks.first),
                    step=1,
                    label="Points per side",
                    info="A grid of so many points each way is asked: more find smaller things.",
                    elem_id="points-per-side",
                )
                with gr.Row():
                    self.run = gr.Button(
                        "Find masks", variant="primary", min_width=120, elem_id="find"
                    )
                    self.cancel = gr.Button("Cancel", min_width=120, elem_id="everything-cancel")
                self.status = gr.Markdown(_READY, elem_id="everything-status")
                self.number = gr.Slider(
                    1,
                    2,
                    1,
                    step=1,
                    label="Look at mask",
                    info="Or click a mask in the picture.",
                    visible=False,
                    elem_id="mask-number",
                )
                self.about = gr.Markdown(elem_id="mask-about")
                self.downloads = DownloadPanel("everything", "COCO json, PNGs, overlay")

    def connect(self) -> None:
        """Let pictures, buttons and clicks do what they are for."""
        session, view, status = self.shared.session, self.view, self.status
        result = [view, status, self.number, self.about, *self.downloads.outputs]
        entered(self.tab, self.shared)
        self.shared.chosen.then(self._show_picture, session, result, **INSTANT)
        # What was said of the last run goes.
        self.run.click(None, None, status, js="() => ''", **INSTANT)
        asked = [session, self.shared.model, self.shared.speed, self.grid]
        running = self.run.click(self._find, asked, result, show_progress_on=view, **LONG)
        self.cancel.click(self._stop, session, status, cancels=[running], **INSTANT)
        self.number.input(
            self._look_at,
            [session, self.number],
            [view, self.about],
            preprocess=False,  # Gradio would stumble over an empty field before we can say so.
            **QUICK | {"trigger_mode": "always_last"},
        )
        view.select(self._look_under, session, [view, self.about, self.number], **QUICK)
        self.downloads.connect(self._write, [session])
        model = self.shared.model
        model.change(self.networks.points_per_side, model, self.grid, **INSTANT)

    def _nothing_to_look_at(self) -> list[Any]:
        return [gr.Slider(visible=False), "", *self.downloads.closed()]

    def _show_picture(self, session: Session) -> list[Any]:
        image = None if session.picture is None else session.picture.image
        return [self.shared.shown(image), _READY, *self._nothing_to_look_at()]

    @friendly
    def _find(
        self,
        session: Session,
        model: str,
        speed: str,
        points_per_side: int,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  (how Gradio hands it over)
    ) -> list[Any]:
        picture, task = session.require_picture(), session.begin()

        def tell(done: int, total: int) -> None:
            task.stop_if_cancelled()
            what = f"point {done} of {total}" if done else "encoding"
            progress(done / total, desc=what)

        progress(0, desc="waiting for its turn")
        found = self.networks.segment(model, speed, int(points_per_side), picture.image, tell)
        drawn = overlay(picture.image, found.records)
        task.stop_if_cancelled()  # another picture may be on the page by now
        task.wanted = False
        picture.found, picture.overlay = found, drawn
        view = self.shared.shown(drawn if found.records else picture.image)
        count = len(found.records)
        if not count:
            return [view, _summary(found), *self._nothing_to_look_at()]
        number = gr.Slider(visible=count > 1, maximum=max(2, count), value=1)
        return [view, _summary(found), number, "", *self.downloads.offered()]

    def _stop(self, session: Session) -> Any:
        if not session.task.wanted:
            return gr.skip()  # a summary stays
        session.task.wanted = False
        return "Cancelled."

    @friendly
    def _look_at(self, session: Session, number: float | None) -> list[Any]:
        picture, found = _with_masks(session)
        count = len(found.records)
        if number is None or number not in range(1, count + 1):
            return [gr.skip(), f"Masks are numbered 1 to {count}."]
        drawn, words = _highlighted(picture, found, int(number) - 1)
        return [self.shared.shown(drawn), words]

    @friendly
    def _look_under(self, event: gr.SelectData, session: Session) -> list[Any]:
        picture, found = _with_masks(session)
        index = mask_at(found.records, *map(int, event.index))
        if index is None:
            return [self.shared.shown(picture.overlay), "No mask here.", gr.skip()]
        drawn, words = _highlighted(picture, found, index)
        return [self.shared.shown(drawn), words, index + 1]

    @friendly
    def _write(
        self,
        session: Session,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> list[str]:
        picture, found = _with_masks(session)
        return write_everything(
            picture, found.records, self.shared.folder, lambda what: progress(None, desc=what)
        )


def _with_masks(session: Session) -> tuple[Picture, Found]:
    """The picture, and what everything mode has found in it.

    Raises:
        InputError: there is no picture, or no result.
    """
    picture = session.require_picture()
    if picture.found is None:
        raise InputError(_RUN_FIRST)
    return picture, picture.found


def _summary(found: Found) -> str:
    count = len(found.records)
    whole = found.encode + found.decode + found.postprocess
    return (
        f"**{count} mask{'s' if count != 1 else ''}** in {whole:.1f} s: "
        f"encode {found.encode:.2f} s, decode {found.decode:.2f} s, "
        f"post-process {found.postprocess:.2f} s"
    )


def _highlighted(picture: Picture, found: Found, index: int) -> tuple[np.ndarray, str]:
    """The overlay with one mask outlined, and what is known of that mask."""
    assert picture.overlay is not None
    record = found.records[index]
    mask = binary_mask(record).astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    stroke = max(2, round(max(mask.shape) / 200))
    # Dim what is not the mask, so that it stands out whatever its colour.
    drawn = np.where(mask[..., None] > 0, picture.overlay, picture.overlay // 2)
    cv2.drawContours(drawn, contours, -1, (0, 0, 0), stroke + 2, cv2.LINE_AA)
    cv2.drawContours(drawn, contours, -1, (255, 255, 255), stroke, cv2.LINE_AA)
    share = record["area"] / mask.size
    height, width = picture.full_size
    return drawn, (
        f"**Mask {index + 1}** of {len(found.records)}: "
        f"area {share * height * width:,.0f} pixels ({share:.1%} of the picture), "
        f"predicted IoU {record['predicted_iou']:.2f}, stability {record['stability_score']:.2f} "
        "(1 is best)"
    )
