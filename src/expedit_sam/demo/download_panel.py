"""Files on demand: a button that prepares them, and then links to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from expedit_sam.demo.shared import INSTANT, LONG


class DownloadPanel:
    """Offers to write files of a result; ``outputs`` take ``offered()`` and ``closed()``."""

    def __init__(self, name: str, label: str) -> None:
        # Groups are shown and hidden, not what is in them: Gradio rebuilds what is updated, and
        # then forgets to delete its files.
        with gr.Column(visible=False) as self._offer:
            self._prepare = gr.Button("Prepare downloads", elem_id=f"{name}-prepare")
        with gr.Column(visible=False) as self._links:
            self._files = gr.File(
                label=label,
                file_count="multiple",
                interactive=False,
                elem_id=f"{name}-files",
            )
        self.outputs: list[Any] = [self._offer, self._links, self._files]

    @staticmethod
    def offered() -> list[Any]:
        """There is a new result, and no files of it yet."""
        return [gr.Column(visible=True), gr.Column(visible=False), None]

    @staticmethod
    def closed() -> list[Any]:
        """There is no result."""
        return [gr.Column(visible=False), gr.Column(visible=False), None]

    def connect(self, write: Callable[..., list[str]], inputs: list[Any]) -> None:
        """Let the button write files and show links to them."""
        self._prepare.click(lambda: gr.Column(visible=True), None, self._links, **INSTANT).then(
            write, inputs, self._files, **LONG
        )
