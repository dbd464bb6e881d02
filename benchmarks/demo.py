"""How soon the demo's page is usable, how soon a click has its mask, and whether memory grows.

    python -m benchmarks.demo --requests 200
    python -m benchmarks.demo --screenshots docs/images

Starts the demo and uses it in a browser, as a person would. Prints the server's memory every 20
requests; ``--screenshots`` takes the pictures of docs/demo.md.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from tests.demo.conftest import FLAGS, changing, choose_example, free_port, open_tab, said
from tests.get_chromium import find_chromium

EXAMPLES = ("cat.jpg", "coffee.jpg", "rocket.jpg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=0, help="how many, to watch the memory")
    parser.add_argument("--clicks", type=int, default=10, help="how many to time")
    parser.add_argument("--screenshots", type=Path, help="a folder for pictures of the page")
    options = parser.parse_args()
    port = free_port()
    started = time.perf_counter()
    command = [sys.executable, "-m", "expedit_sam", "demo", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        server.stdout.readline()
        print(f"server answers after {time.perf_counter() - started:.1f} s")
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=find_chromium(), args=FLAGS)
            launched = time.perf_counter()
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.set_default_timeout(300_000)
            page.goto(f"http://127.0.0.1:{port}/")
            page.get_by_role("button", name="Find masks").wait_for()
            print(f"page is usable {time.perf_counter() - launched:.1f} s after it is asked for")
            said(page, "speed", "fast (")
            print(f"speeds: {' '.join(page.locator('#speed label').all_inner_texts())}")
            time_clicks(page, options.clicks)
            watch_memory(page, server.pid, options.requests)
            if options.screenshots:
                take_screenshots(browser, port, options.screenshots)
            browser.close()
    finally:
        server.terminate()
        server.wait()


def time_clicks(page: Page, number: int) -> None:
    """Seconds from a click to the new picture, as the person sees it."""
    choose_example(page, "coffee.jpg")
    open_tab(page, "Click")
    said(page, "click-status", "encoded in")
    click(page, 0.5, 0.5)
    seconds = []
    for step in range(number):
        started = time.perf_counter()
        click(page, 0.1 + 0.8 * step / number, 0.4)
        seconds.append(time.perf_counter() - started)
    longest = max(seconds)
    print(
        f"a click: median {statistics.median(seconds):.2f} s, longest {longest:.2f} s of {number}"
    )


def click(page: Page, across: float, down: float) -> None:
    box = page.locator("#click-picture img").bounding_box()
    assert box is not None
    with changing(page, "click-picture"):
        page.locator("#click-picture img").click(
            position={"x": across * box["width"], "y": down * box["height"]}
        )


def watch_memory(page: Page, server: int, number: int) -> None:
    """Do what people do and print the server's memory every 20 requests."""
    for request in range(1, number + 1):
        if request % 20 == 1:
            choose_example(page, EXAMPLES[request // 20 % 3])
            said(page, "click-status", "encoded in")
        elif request % 20 == 2:
            open_tab(page, "Everything")
            field = page.locator("#points-per-side input[type=number]")
            field.fill("6")
            field.press("Tab")
            with changing(page, "everything-picture"):
                page.get_by_role("button", name="Find masks").click()
            open_tab(page, "Click")
            time.sleep(1)
        elif request % 20 == 3:
            page.get_by_role("button", name="Clear").first.click()
        else:
            click(page, 0.05 + request * 0.618 % 0.9, 0.05 + request * 0.382 % 0.9)
        if request % 20 == 0:
            print(f"memory after {request} requests: {resident(server)} MB", flush=True)


def resident(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    match = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert match
    return int(match[1]) // 1024


def take_screenshots(browser: Any, port: int, folder: Path) -> None:
    """The four tabs, as a desktop and as a phone show them."""
    for device, width, height in (("desktop", 1280, 900), ("phone", 390, 844)):
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(300_000)
        page.goto(f"http://127.0.0.1:{port}/")
        said(page, "speed", "fast (")
        choose_example(page, "coffee.jpg")
        page.locator("#everything-picture img").wait_for()
        with changing(page, "everything-picture"):
            page.get_by_role("button", name="Find masks").click()
        said(page, "everything-status", "post-process")
        shoot(page, folder / f"demo_everything_{device}.jpg")
        open_tab(page, "Click")
        said(page, "click-status", "encoded in")
        click(page, 0.48, 0.38)
        said(page, "click-status", "Masks in")
        shoot(page, folder / f"demo_click_{device}.jpg")
        open_tab(page, "Compare")
        said(page, "compare-status", "B, fast: encoded in")
        view = page.locator("#first-picture img")
        box = view.bounding_box()
        with changing(page, "second-picture"):
            view.click(position={"x": 0.48 * box["width"], "y": 0.38 * box["height"]})
        page.locator("#difference img").wait_for()
        shoot(page, folder / f"demo_compare_{device}.jpg")
        open_tab(page, "Inside")
        said(page, "inside-status", "tokens become")
        shoot(page, folder / f"demo_inside_{device}.jpg")
        page.close()


def shoot(page: Page, path: Path) -> None:
    page.mouse.move(0, 0)
    time.sleep(2)  # until what fades has faded
    page.screenshot(path=path, full_page=True, type="jpeg", quality=80)
    print(f"{path}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
