"""The page with the embedded network, whose masks mean something."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from expedit_sam import build_sam
from expedit_sam.demo.networks import Networks
from expedit_sam.demo.server import running
from expedit_sam.hourglass import PRESETS
from tests.demo.conftest import (
    Visit,
    changing,
    choose_example,
    click_picture,
    downloads,
    free_port,
    open_tab,
    pixels,
    said,
)

pytestmark = pytest.mark.slow

# In the middle of the espresso.
ACROSS, DOWN = 0.49, 0.37


@pytest.fixture(scope="module")
def embedded() -> Iterator[str]:
    networks = Networks("vit_s", build_sam())
    # What the page shows of speeds is tested with a tiny network; to measure takes eight encodings.
    networks._speedups["vit_s"] = dict.fromkeys(PRESETS, 1.0)
    with running(networks, "127.0.0.1", free_port()) as address:
        yield address


def test_everything_and_a_click(visit: Visit, embedded: str) -> None:
    page = visit(embedded)
    said(page, "speed", "fast (")
    choose_example(page, "coffee.jpg")
    page.locator("#everything-picture img").wait_for()
    plain = pixels(page, "everything-picture")
    points = page.locator("#points-per-side input[type=number]")
    points.fill("6")
    points.press("Tab")
    with changing(page, "everything-picture"):
        page.get_by_role("button", name="Find masks").click()
    said(page, "everything-status", "post-process")
    assert np.abs(pixels(page, "everything-picture").astype(int) - plain).mean() > 2

    open_tab(page, "Click")
    said(page, "click-status", "encoded in")
    click_picture(page, "click-picture", ACROSS, DOWN)
    said(page, "click-status", "Masks in")
    mask = np.array(Image.open(io.BytesIO(downloads(page, "click")["coffee_mask.png"])))
    assert mask[round(DOWN * 400), round(ACROSS * 600)] > 0
    assert 0.005 < (mask > 0).mean() < 0.9
