"""A server with a tiny network, and people with browsers who visit it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from expedit_sam.everything.recommended import RECOMMENDED
from expedit_sam.model.architectures import new_sam
from tests.conftest import TINY, randomized
from tests.get_chromium import find_chromium

pytest.importorskip("gradio", reason="the demo is not installed: pip install 'expedit-sam[demo]'")

from expedit_sam.demo.networks import Networks
from expedit_sam.demo.server import running

FLAGS = [
    "--no-sandbox",  # as root there is none
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 120_000  # milliseconds; CI's machines are small

Visit = Callable[..., Any]


@pytest.fixture(scope="module")
def tiny_networks() -> Iterator[Networks]:
    """A random network of a few thousand parameters, and everything it finds is kept."""
    with pytest.MonkeyPatch.context() as patch:
        everything = {
            "points_per_side": 4,
            "pred_iou_thresh": 0.0,
            "stability_score_thresh": 0.0,
            "box_nms_thresh": 1.0,
        }
        patch.setitem(RECOMMENDED, "vit_s", everything)
        yield Networks("vit_s", randomized(new_sam(TINY)))


@pytest.fixture(scope="module")
def address(tiny_networks: Networks) -> Iterator[str]:
    """Where the page is served, by the tiny network."""
    with running(tiny_networks, "127.0.0.1", free_port()) as address:
        yield address


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        # One for all: another one would have to get and compile Gradio's scripts anew.
        context = browser.new_context()
        context.set_default_timeout(PATIENCE)
        yield context
        browser.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Visit]:
    """Opens the page like a new person; at the end, no console had an error and nobody was asked
    for anything but the server."""
    complaints: list[str] = []
    requests: list[str] = []
    pages: list[Any] = []

    def visit(address: str, width: int = 1280, height: int = 900) -> Any:
        page = browser.new_page()
        pages.append(page)
        page.set_viewport_size({"width": width, "height": height})
        page.on("console", lambda line: complaints.append(line.text) if is_error(line) else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address)
        page.get_by_role("button", name="Find masks").wait_for()
        return page

    yield visit
    for page in pages:
        page.close()
    assert complaints == []
    local = ("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:")
    assert [url for url in requests if not url.startswith(local)] == []


def is_error(line: Any) -> bool:
    return line.type == "error"


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def upload(page: Any, path: Path) -> None:
    """Choose a file for the upload box, whether it is empty or not."""
    page.locator("#upload input[type=file]").first.set_input_files(path)


def choose_example(page: Any, name: str) -> None:
    """Click the thumbnail of an example, and wait until it is on the page."""
    page.locator(f"#examples button:has(img[src*='{name}'])").click()
    page.locator("#status", has_text=name).wait_for()


def said(page: Any, name: str, text: str) -> str:
    """Wait until the line called ``name`` has this text in it; the whole line."""
    line = page.locator(f"#{name}", has_text=text)
    line.wait_for()
    return line.inner_text()


def open_tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def pixels(page: Any, name: str) -> np.ndarray:
    """What the picture view called ``name`` shows: HxWx3 uint8."""
    source = page.locator(f"#{name} img").get_attribute("src")
    content = page.request.get(source).body()
    return np.array(Image.open(io.BytesIO(content)).convert("RGB"))


def shown(page: Any, name: str, as_wanted: Callable[[np.ndarray], bool]) -> np.ndarray:
    """What the picture view shows, once it is as wanted: it may come later than the words do."""
    for _ in range(PATIENCE // 200):
        if as_wanted(picture := pixels(page, name)):
            return picture
        page.wait_for_timeout(200)
    raise AssertionError(f"{name} never showed what was wanted")


@contextmanager
def changing(page: Any, *names: str) -> Iterator[None]:
    """Wait at the end until these picture views show other pictures than at the start."""
    before = {name: _source(page, name) for name in names}
    yield
    for name, source in before.items():
        page.wait_for_function(
            "([name, source]) => (document.querySelector(`#${name} img`)?.src ?? '') !== source",
            arg=[name, source],
        )


def _source(page: Any, name: str) -> str:
    image = page.locator(f"#{name} img")
    return image.evaluate("image => image.src") if image.count() else ""


def click_picture(page: Any, name: str, across: float, down: float) -> None:
    """Click a picture view at fractions of its width and height; wait until it has changed."""
    image = page.locator(f"#{name} img")
    loaded = "name => document.querySelector(`#${name} img`)?.naturalWidth > 0"
    page.wait_for_function(loaded, arg=name)  # before, Gradio passes over clicks
    box = image.bounding_box()
    with changing(page, name):
        image.click(position={"x": across * box["width"], "y": down * box["height"]})


def downloads(page: Any, name: str) -> dict[str, bytes]:
    """Prepare a tab's files and fetch them: contents by name."""
    page.locator(f"#{name}-prepare").click()
    links = page.locator(f"#{name}-files a[download]")
    links.first.wait_for()
    return {
        link.get_attribute("download"): page.request.get(link.get_attribute("href")).body()
        for link in links.all()
    }


def unzip(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
