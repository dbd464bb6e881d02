"""The page: a picture and choices at the top, and a tab for each way to look at it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from expedit_sam.demo.click_tab import ClickTab
from expedit_sam.demo.compare_tab import CompareTab
from expedit_sam.demo.everything_tab import EverythingTab
from expedit_sam.demo.inside_tab import InsideTab
from expedit_sam.demo.networks import Networks
from expedit_sam.demo.pictures import check_uploaded, example_files, read_picture
from expedit_sam.demo.shared import CHOOSE_FIRST, INSTANT_LATEST, Session, Shared, failed
from expedit_sam.hourglass import PRESETS

HOURS = 2  # after which the server forgets a picture and deletes its files

_TITLE = """# Expedit-SAM
Segment Anything, made fast without any training. Choose a picture, then a tab."""


def build_page(networks: Networks, folder: Path) -> gr.Blocks:
    """The page, ready to be served.

    Arguments:
        networks: what it offers.
        folder: of uploads, where files to download are written too.
    """
    with gr.Blocks(
        title="Expedit-SAM",
        analytics_enabled=False,
        delete_cache=(600, HOURS * 3600),
    ) as page:
        session = gr.State(Session(), time_to_live=HOURS * 3600)
        gr.Markdown(_TITLE)
        with gr.Row():
            with gr.Column(scale=3, min_width=300):
                upload = _picture_choice()
            with gr.Column(scale=2, min_width=300):
                model, speed = _network_choice(networks)
                status = gr.Markdown(CHOOSE_FIRST, elem_id="status")
        chosen = upload.change(
            partial(_choose, folder),
            [session, upload],
            [session, status],
            # Gradio would open the file, and stumble over a broken one before we can say so.
            preprocess=False,
            api_name="choose",
            api_visibility="private",
        )
        shared = Shared(networks, folder, session, model, speed, chosen)
        with gr.Tabs(overflow_behavior="wrap"):
            for tab in (EverythingTab, ClickTab, CompareTab, InsideTab):
                tab(shared).connect()
        measured: dict[str, Any] = {
            "show_progress": "hidden",
            "concurrency_limit": None,
            "api_visibility": "private",
        }
        page.load(partial(_speed_labels, networks), model, speed, **measured)
        model.input(partial(_speed_labels, networks), model, speed, **measured)
    return page


def _picture_choice() -> gr.Image:
    """Where a picture is uploaded, or chosen from examples."""
    upload = gr.Image(
        label="Picture",
        show_label=False,
        sources=["upload", "clipboard"],
        height=240,
        buttons=[],
        elem_id="upload",
        alt_text="The picture you chose",
    )
    # gr.Examples would leave a component behind on the server at every click.
    gr.set_static_paths(example_files())
    examples = gr.Dataset(
        components=[upload],
        samples=[[path] for path in example_files()],
        label="Or one of these",
        elem_id="examples",
    )
    examples.click(lambda sample: sample[0], examples, upload, **INSTANT_LATEST)
    return upload


def _network_choice(networks: Networks) -> tuple[gr.Radio, gr.Radio]:
    """Where a model and a speed are chosen."""
    # Not a gr.Dropdown: left with the Tab key, its list stays open over what is below.
    model = gr.Radio(
        networks.names,
        value=networks.first,
        label="Model",
        info=f"Those on this computer, in {networks.precision}; `expedit-sam models` lists more.",
        elem_id="model",
    )
    speed = gr.Radio(
        list(PRESETS),
        value="exact",
        label="Speed",
        info="Times faster at encoding, as measured on this computer. "
        "Compare and Inside have choices of their own.",
        elem_id="speed",
    )
    return model, speed


def _choose(folder: Path, session: Session, upload: dict[str, Any] | None) -> list[Any]:
    """Read the picture that was uploaded into ``folder``."""
    if upload is None:
        session.choose(None)
        return [session, CHOOSE_FIRST]
    try:
        check_uploaded(upload["path"], folder)
        picture = read_picture(upload["path"])
    except Exception as error:
        session.choose(None)
        return [session, failed(error)]
    session.choose(picture)
    return [session, f"`{picture.path.name}`: {picture.size_text}"]


def _speed_labels(networks: Networks, model: str) -> gr.Radio:
    """The speeds, with how much faster each encodes here."""
    noise = np.random.default_rng(0).integers(0, 256, (768, 1024, 3), dtype=np.uint8)
    speedups = networks.speedups(model, noise)
    return gr.Radio(
        choices=[
            (speed if speed == "exact" else f"{speed} ({times:.1f}x)", speed)
            for speed, times in speedups.items()
        ]
    )
