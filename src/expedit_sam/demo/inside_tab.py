"""The Inside tab: the clusters of the hourglass, drawn on the picture."""

from __future__ import annotations

from typing import Any

import gradio as gr

from expedit_sam.demo.clusters import ClusterMap, draw_clusters
from expedit_sam.demo.shared import LATEST, Session, Shared, entered, failed, picture_view
from expedit_sam.hourglass import PRESETS

_SPEEDS = [name for name, setting in PRESETS.items() if setting is not None]
_COLORS, _TOKENS, _WINDOWS = "mean colours", "token grid", "windows"
_INTRODUCTION = (
    "A picture enters the network as a grid of tokens. Part of the way through, the hourglass "
    "gathers the tokens of each window into fewer clusters, and the rest of the network works on "
    "those. Flat regions share a cluster, and edges keep their own."
)


class InsideTab:
    """The tab; ``connect`` it once the page is built."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        with gr.Tab("Inside") as self.tab, gr.Row():
            with gr.Column(scale=3, min_width=300):
                self.view = picture_view("Clusters of tokens", "inside-picture")
            with gr.Column(scale=2, min_width=300):
                gr.Markdown(_INTRODUCTION)
                self.speed = gr.Radio(
                    _SPEEDS, value=_SPEEDS[0], label="Setting", elem_id="inside-speed"
                )
                self.layers = gr.CheckboxGroup(
                    [_COLORS, _TOKENS, _WINDOWS],
                    value=[_COLORS, _WINDOWS],
                    label="Besides the borders of clusters (yellow), draw",
                    elem_id="inside-layers",
                )
                self.status = gr.Markdown(elem_id="inside-status")

    def connect(self) -> None:
        """Let pictures and choices do what they are for."""
        choices = [self.shared.model, self.speed, self.layers]
        inputs, result = [self.shared.session, *choices], [self.view, self.status]
        for event in (self.shared.chosen, entered(self.tab, self.shared)):
            event.then(self._draw, inputs, result, **LATEST)
        for choice in choices:
            choice.input(self._draw, inputs, result, **LATEST)

    def _draw(self, session: Session, model: str, speed: str, layers: list[str]) -> list[Any]:
        picture = session.picture
        if picture is None or session.tab != self.tab.label:
            return [None, ""]
        try:
            found = picture.cluster_map(self.shared.networks, model, speed)
            drawn = draw_clusters(
                picture.image,
                found,
                colors=_COLORS in layers,
                tokens=_TOKENS in layers,
                windows=_WINDOWS in layers,
            )
        except Exception as error:
            return [self.shared.shown(picture.image), failed(error)]
        return [self.shared.shown(drawn), _in_words(found)]


def _in_words(found: ClusterMap) -> str:
    return (
        f"**{found.tokens} tokens become {found.clusters} clusters** before block "
        f"{found.block + 1} of {found.depth}; the picture covers {found.labels.size} of the tokens."
    )
