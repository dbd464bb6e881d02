"""The page as people use it, in a real browser."""

from __future__ import annotations

import gc
import io
import json
import threading
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from expedit_sam.demo.pictures import Picture
from expedit_sam.hourglass import PRESETS
from tests.demo.conftest import (
    PATIENCE,
    Visit,
    changing,
    choose_example,
    click_picture,
    downloads,
    open_tab,
    pixels,
    said,
    shown,
    unzip,
    upload,
)

pytestmark = pytest.mark.slow


def test_everything(visit: Visit, address: str, tmp_path: Path) -> None:
    page = visit(address)
    choose_example(page, "coffee.jpg")
    page.locator("#everything-picture img").wait_for()
    before = pixels(page, "everything-picture")
    with changing(page, "everything-picture"):
        page.get_by_role("button", name="Find masks").click()
    line = said(page, "everything-status", "post-process")
    count = int(line.split()[0])
    assert count > 1
    after = pixels(page, "everything-picture")
    assert after.shape == before.shape == (400, 600, 3)
    assert np.abs(after.astype(int) - before).mean() > 5

    page.get_by_role("button", name="Cancel").click()
    page.locator("#mask-number input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    assert "predicted IoU" in said(page, "mask-about", "Mask 2 of")
    assert page.locator("#everything-status").inner_text() == line
    click_picture(page, "everything-picture", 0.5, 0.5)

    files = downloads(page, "everything")
    assert sorted(files) == ["coffee.json", "coffee_masks.zip", "coffee_overlay.jpg"]
    (tmp_path / "coffee.json").write_bytes(files["coffee.json"])
    dataset = COCO(str(tmp_path / "coffee.json"))
    assert len(dataset.anns) == count
    assert dataset.annToMask(dataset.anns[1]).shape == (400, 600)
    assert len(unzip(files["coffee_masks.zip"])) == count
    assert Image.open(io.BytesIO(files["coffee_overlay.jpg"])).size == (600, 400)


def test_click(visit: Visit, address: str) -> None:
    page = visit(address)
    choose_example(page, "cat.jpg")
    open_tab(page, "Click")
    said(page, "click-status", "encoded in")
    plain = pixels(page, "click-picture")

    click_picture(page, "click-picture", 0.5, 0.5)
    said(page, "click-status", "Masks in")
    one = shown(page, "click-picture", lambda picture: plus_at(picture, 0.5, 0.5))
    assert np.abs(one.astype(int) - plain).max() > 50
    assert page.locator("#candidate input[type=radio]").count() == 3
    with changing(page, "click-picture"):
        page.locator("#candidate label").nth(2).click()

    page.locator("#click-kind").get_by_text("Exclude").click()
    click_picture(page, "click-picture", 0.2, 0.3)
    shown(page, "click-picture", lambda picture: minus_at(picture, 0.2, 0.3))
    with changing(page, "click-picture"):
        page.get_by_role("button", name="Undo").click()
    shown(page, "click-picture", lambda picture: np.abs(picture.astype(int) - one).mean() < 1)

    page.locator("#click-kind").get_by_text("Box").click()
    click_picture(page, "click-picture", 0.1, 0.1)
    said(page, "click-status", "Click the opposite corner.")
    click_picture(page, "click-picture", 0.9, 0.9)
    files = downloads(page, "click")
    assert sorted(files) == ["cat_cutout.png", "cat_mask.png"]
    assert Image.open(io.BytesIO(files["cat_cutout.png"])).mode == "RGBA"
    assert Image.open(io.BytesIO(files["cat_mask.png"])).size == (451, 300)
    stem, suffix = (page.locator(f"#click-files .{part}").first for part in ("stem", "ext"))
    end = stem.bounding_box()["x"] + stem.bounding_box()["width"]
    assert suffix.bounding_box()["x"] == pytest.approx(end, abs=1)

    with changing(page, "click-picture"):
        page.get_by_role("button", name="Clear").click()
    shown(page, "click-picture", lambda picture: np.abs(picture.astype(int) - plain).mean() < 1)


def test_by_keyboard_alone(visit: Visit, address: str) -> None:
    page = visit(address)
    choose_example(page, "cat.jpg")
    press(page, page.get_by_role("tab", name="Click", exact=True))
    said(page, "click-status", "encoded in")
    press(page, page.get_by_role("button", name="Without a mouse"))
    for axis in "xy":
        page.get_by_label(f"{axis} in pixels of the uploaded picture").wait_for()
    type_numbers(page, {"click-x": "225", "click-y": "150"})
    with changing(page, "click-picture"):
        press(page, page.get_by_role("button", name="Click there"))
    said(page, "click-status", "Masks in")
    shown(page, "click-picture", lambda picture: plus_at(picture, 0.5, 0.5))


def test_the_tab_key_shows_where_it_is(visit: Visit, address: str) -> None:
    page = visit(address)
    page.locator("#examples button").last.focus()
    for _ in ("vit_s", *PRESETS):
        page.keyboard.press("Tab")
        ring = page.locator(":focus").evaluate("choice => getComputedStyle(choice).outlineStyle")
        assert ring == "solid"
    assert page.locator(":focus").get_attribute("value") == "fast"
    assert page.get_by_role("listbox").count() == 0  # nothing lies open over other things
    page.locator("#points-per-side input[type=number]").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.locator(":focus").get_attribute("type") == "range"
    ring = page.locator(":focus").evaluate("slider => getComputedStyle(slider).outlineStyle")
    assert ring == "solid"


def test_what_is_read_aloud(visit: Visit, address: str) -> None:
    page = visit(address)
    page.locator("html").evaluate("page => page.lang = 'de'")  # as Gradio does where German is read
    page.get_by_role("button", name="coffee.jpg").click()
    page.locator("#status [aria-live=polite]", has_text="coffee.jpg").wait_for()
    assert page.locator("html").get_attribute("lang") == "en"
    page.get_by_role("group", name="Speed", exact=True).wait_for()
    page.get_by_role("button", name="Find masks").click()
    page.locator("#everything-status [aria-live=polite]", has_text="post-process").wait_for()
    page.locator("#everything-prepare").click()
    page.get_by_role("link", name="coffee_masks.zip").wait_for()
    open_tab(page, "Compare")
    page.get_by_role("img", name="Mask at speed B").wait_for()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_words_stand_out(visit: Visit, address: str, theme: str) -> None:
    page = visit(f"{address}?__theme={theme}")
    choose_example(page, "cat.jpg")
    page.get_by_role("button", name="Find masks").click()
    said(page, "everything-status", "post-process")
    downloads(page, "everything")
    page.mouse.move(0, 0)
    page.wait_for_timeout(1000)  # colours fade into others
    for words in ("#find", "[role=tab][aria-selected=true]", "#everything-files a >> nth=1"):
        color, *below = page.locator(words).evaluate("""words => {
            const colors = [getComputedStyle(words).color];
            for (let part = words; part; part = part.parentElement)
                colors.push(getComputedStyle(part).backgroundColor);
            return colors;
        }""")
        opaque = next(color for color in below if not color.startswith("rgba"))
        dark, bright = sorted((luminance(color), luminance(opaque)))
        assert (bright + 0.05) / (dark + 0.05) >= 4.5, words  # WCAG's least for small print


def test_with_few_colours(visit: Visit, address: str) -> None:
    """Windows' contrast themes take away all backgrounds, which Gradio draws choices with."""
    page = visit(address)
    page.emulate_media(forced_colors="active")
    for control in ("radio", "range"):
        shape = "control => getComputedStyle(control).appearance"
        assert page.locator(f"input[type={control}]").first.evaluate(shape) == "auto"
    paint = "part => getComputedStyle(part).backgroundColor"
    backgrounds = [tab.evaluate(paint) for tab in page.get_by_role("tab").all()]
    assert backgrounds[0] != backgrounds[1] == backgrounds[2]
    assert page.locator("#find").evaluate("part => getComputedStyle(part).borderStyle") == "solid"


def test_choosing_faster_than_the_network_answers(visit: Visit, address: str) -> None:
    page = visit(address)
    choose_example(page, "rocket.jpg")
    for name in ("Click", "Inside"):
        open_tab(page, name)
        page.locator(f"#{name.lower()}-picture img").wait_for()
    open_tab(page, "Everything")
    slow = {"offline": False, "latency": 400, "downloadThroughput": -1, "uploadThroughput": -1}
    connection = page.context.new_cdp_session(page)
    connection.send("Network.enable")
    connection.send("Network.emulateNetworkConditions", slow)
    for name in ("cat.jpg", "coffee.jpg"):
        page.locator(f"#examples button:has(img[src*='{name}'])").click()
    said(page, "status", "coffee.jpg")
    page.wait_for_timeout(2000)
    for name in ("Inside", "Click", "Inside"):
        open_tab(page, name)
        page.wait_for_timeout(100)
    said(page, "inside-status", "tokens become")
    shown(page, "inside-picture", lambda picture: picture.shape == (400, 600, 3))


def test_places_typed_on_a_large_picture(
    visit: Visit, address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (4000, 3000), "gray").save(tmp_path / "1. large.png")
    page = visit(address)
    upload(page, tmp_path / "1. large.png")
    assert said(page, "status", "large").startswith("1. large.png: 4000 x 3000 pixels")
    open_tab(page, "Click")
    said(page, "click-status", "encoded in")
    page.get_by_role("button", name="Without a mouse").click()
    there = page.get_by_role("button", name="Click there")
    type_numbers(page, {"click-x": "4000", "click-y": "1500"})
    there.click()
    page.get_by_text("outside the picture of 4000 x 3000 pixels").last.wait_for()
    type_numbers(page, {"click-x": ""})
    there.click()
    page.get_by_text("Type both x and y.").last.wait_for()
    type_numbers(page, {"click-x": "2000"})
    there.click()
    said(page, "click-status", "Masks in")
    shown(page, "click-picture", lambda picture: plus_at(picture, 0.5, 0.5))
    assert "Traceback" not in capsys.readouterr().err


def test_no_mask_has_this_number(
    visit: Visit, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    page = visit(address)
    choose_example(page, "coffee.jpg")
    page.get_by_role("button", name="Find masks").click()
    said(page, "everything-status", "post-process")
    number = page.locator("#mask-number input[type=number]")
    for wrong in ("0", "999", ""):
        number.fill("1")
        said(page, "mask-about", "Mask 1 of")
        number.fill(wrong)
        said(page, "mask-about", "Masks are numbered 1 to")
    assert "Traceback" not in capsys.readouterr().err


on_tabs_that_encode = pytest.mark.parametrize(
    ("tab", "work", "view"),
    [
        ("Click", "encode", "click-picture"),
        ("Compare", "encode", "first-picture"),
        ("Inside", "clusters", "inside-picture"),
    ],
)


def held(
    networks: Any, work: str, monkeypatch: pytest.MonkeyPatch, when_done: bool = False
) -> tuple[threading.Event, threading.Event]:
    """Makes the networks' work set the first event when it begins or is done, then wait."""
    reached, go_on = threading.Event(), threading.Event()
    at_once = getattr(networks, work)

    def later(*arguments: Any) -> Any:
        result = at_once(*arguments) if when_done else None
        reached.set()
        go_on.wait()
        return result if when_done else at_once(*arguments)

    monkeypatch.setattr(networks, work, later)
    return reached, go_on


@on_tabs_that_encode
def test_another_picture_while_one_is_encoded(
    visit: Visit,
    address: str,
    tiny_networks: Any,
    monkeypatch: pytest.MonkeyPatch,
    tab: str,
    work: str,
    view: str,
) -> None:
    page = visit(address)
    said(page, "speed", "fast (")  # measured: nothing else is encoded
    open_tab(page, tab)
    begun, go_on = held(tiny_networks, work, monkeypatch)
    choose_example(page, "cat.jpg")
    begun.wait()
    choose_example(page, "coffee.jpg")
    page.wait_for_timeout(1000)  # the page asks for it meanwhile
    go_on.set()
    page.wait_for_timeout(2000)
    shown(page, view, lambda picture: picture.shape == (400, 600, 3))


def test_another_picture_when_the_masks_of_one_are_found(
    visit: Visit, address: str, tiny_networks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, go_on = held(tiny_networks, "segment", monkeypatch, when_done=True)
    page = visit(address)
    choose_example(page, "cat.jpg")
    page.get_by_role("button", name="Find masks").click()
    found.wait()
    choose_example(page, "coffee.jpg")
    go_on.set()
    page.get_by_text("Cancelled.").first.wait_for()
    said(page, "everything-status", "Press Find masks.")
    shown(page, "everything-picture", lambda picture: picture.shape == (400, 600, 3))


@on_tabs_that_encode
def test_what_fails_is_said_where_it_was_awaited(
    visit: Visit,
    address: str,
    tiny_networks: Any,
    monkeypatch: pytest.MonkeyPatch,
    tab: str,
    work: str,
    view: str,
) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    status = f"{tab.lower()}-status"
    page = visit(address)
    said(page, "speed", "fast (")  # measured: nothing else is encoded
    open_tab(page, tab)
    with monkeypatch.context() as patch:
        patch.setattr(tiny_networks, work, fail)
        choose_example(page, "cat.jpg")
        said(page, status, "That did not work: Out of memory")
        if work == "encode":
            click_picture(page, view, 0.5, 0.5)
            said(page, status, "That did not work: Out of memory")
        shown(page, view, lambda picture: picture.shape == (300, 451, 3))
    open_tab(page, "Everything")
    open_tab(page, tab)
    said(page, status, {"Click": "Masks in", "Compare": "IoU of"}.get(tab, "tokens become"))


@pytest.mark.parametrize(
    ("tab", "view", "answered"),
    [
        ("Click", "click-picture", "Masks in"),
        ("Compare", "first-picture", "IoU of A and B"),
    ],
)
def test_clicks_wait_for_nobody_s_encoder(
    visit: Visit,
    address: str,
    tiny_networks: Any,
    monkeypatch: pytest.MonkeyPatch,
    tab: str,
    view: str,
    answered: str,
) -> None:
    early, late = visit(address), visit(address)
    for page in (early, late):
        said(page, "speed", "fast (")
    choose_example(early, "cat.jpg")
    open_tab(early, tab)
    said(early, f"{tab.lower()}-status", "encoded in")
    _, go_on = held(tiny_networks, "encode", monkeypatch)
    choose_example(late, "coffee.jpg")
    open_tab(late, tab)
    said(late, f"{tab.lower()}-status", "Encoding")
    waiting = late.locator(f"#{tab.lower()}-status .pending")
    assert float(waiting.evaluate("line => getComputedStyle(line).opacity")) > 0.6
    click_picture(late, view, 0.5, 0.5)
    shown(late, view, lambda picture: plus_at(picture, 0.5, 0.5))
    click_picture(early, view, 0.5, 0.5)
    said(early, f"{tab.lower()}-status", answered)
    go_on.set()
    said(late, f"{tab.lower()}-status", answered)


def test_coming_back_to_a_guess(visit: Visit, address: str) -> None:
    page = visit(address)
    choose_example(page, "cat.jpg")
    open_tab(page, "Click")
    said(page, "click-status", "encoded in")
    click_picture(page, "click-picture", 0.5, 0.5)
    said(page, "click-status", "Masks in")
    with changing(page, "click-picture"):
        page.locator("#candidate label").nth(2).click()
    downloads(page, "click")
    guess = pixels(page, "click-picture")
    open_tab(page, "Everything")
    open_tab(page, "Click")
    page.wait_for_timeout(2000)  # nothing is to happen
    assert page.locator("#candidate input").nth(2).is_checked()
    assert page.locator("#click-files a[download]").first.is_visible()
    np.testing.assert_array_equal(pixels(page, "click-picture"), guess)

    open_tab(page, "Everything")
    page.locator("#speed label", has_text="fast").click()
    page.locator("#candidate").wait_for(state="detached")
    open_tab(page, "Click")
    said(page, "click-status", "Masks in")
    assert page.locator("#candidate input").first.is_checked()


def test_compare(visit: Visit, address: str) -> None:
    page = visit(address)
    choose_example(page, "cat.jpg")
    open_tab(page, "Compare")
    said(page, "compare-status", "B, fast: encoded in")
    with changing(page, "second-picture"):
        click_picture(page, "first-picture", 0.5, 0.5)
    line = said(page, "compare-status", "IoU of A and B")
    assert 0 <= float(line.split("B: ")[1].split()[0]) <= 1
    assert "A, exact: encode" in line
    assert "B, fast: encode" in line
    page.locator("#difference img").wait_for()
    difference = pixels(page, "difference").astype(int)
    assert np.abs(difference - pixels(page, "first-picture")).mean() > 5


def test_inside(visit: Visit, address: str) -> None:
    page = visit(address)
    choose_example(page, "cat.jpg")
    open_tab(page, "Inside")
    assert "400 tokens become 169 clusters before block 3 of 4" in said(
        page, "inside-status", "tokens become"
    )
    with changing(page, "inside-picture"):
        page.locator("#inside-layers").get_by_text("token grid").click()
    page.locator("#inside-speed").get_by_text("fast").click()
    said(page, "inside-status", "before block 2 of 4")


def test_speeds_show_what_was_measured(visit: Visit, address: str, tiny_networks: Any) -> None:
    page = visit(address)
    times = tiny_networks.speedups("vit_s", np.zeros((20, 30, 3), np.uint8))
    said(page, "speed", f"fast ({times['fast']:.1f}x)")


def test_nothing_moves_when_speeds_are_measured(
    visit: Visit, address: str, tiny_networks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, go_on = held(tiny_networks, "speedups", monkeypatch)
    page = visit(address)
    page.wait_for_timeout(1000)  # all is in its place
    below = page.locator("#status")
    before = below.bounding_box()
    go_on.set()
    said(page, "speed", "fast (")
    assert below.bounding_box() == before


def test_a_broken_upload(visit: Visit, address: str, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and then nothing")
    Image.new("RGB", (30, 20), "red").save(tmp_path / "good.png")
    page = visit(address)
    upload(page, tmp_path / "broken.jpg")
    line = said(page, "status", "That did not work")
    assert "broken.jpg" in line
    assert "/" not in line
    page.get_by_role("button", name="Find masks").click()
    page.get_by_text("Choose a picture first").last.wait_for()
    assert page.locator(".toast-title").inner_text() == "Warning"
    assert page.get_by_text("Error", exact=True).count() == 0
    assert "Traceback" not in page.content()
    page.get_by_role("button", name="Remove Image").click()
    upload(page, tmp_path / "good.png")
    assert said(page, "status", "good.png") == "good.png: 30 x 20 pixels"


def test_a_large_photograph(visit: Visit, address: str, tmp_path: Path) -> None:
    y, x = np.mgrid[:4000, :6000]
    photo = np.stack([x // 24, y // 16, (x + y) // 40], axis=-1).astype(np.uint8)
    Image.fromarray(photo).save(tmp_path / "large.jpg")
    page = visit(address)
    upload(page, tmp_path / "large.jpg")
    assert "6000 x 4000 pixels, shown at 1280 x 853" in said(page, "status", "large.jpg")
    open_tab(page, "Click")
    said(page, "click-status", "encoded in")
    click_picture(page, "click-picture", 0.5, 0.5)
    files = downloads(page, "click")
    assert Image.open(io.BytesIO(files["large_mask.png"])).size == (6000, 4000)


def test_two_people_do_not_see_each_others_pictures(
    visit: Visit, address: str, tmp_path: Path
) -> None:
    people = [visit(address), visit(address)]
    sizes = [(61, 40), (50, 83)]
    for page, color, size in zip(people, ("crimson", "navy"), sizes, strict=True):
        Image.new("RGB", size, color).save(tmp_path / f"{color}.png")
        upload(page, tmp_path / f"{color}.png")
    for page in people:
        page.locator("#everything-picture img").wait_for()
        page.get_by_role("button", name="Find masks").click()
    for page, color, size in zip(people, ("crimson", "navy"), sizes, strict=True):
        said(page, "everything-status", "post-process")
        files = downloads(page, "everything")
        document = json.loads(files[f"{color}.json"])
        assert document["images"][0]["file_name"] == f"{color}.png"
        assert document["annotations"][0]["segmentation"]["size"] == [*size[::-1]]
        assert pixels(page, "everything-picture").shape == (*size[::-1], 3)
        other = "navy" if color == "crimson" else "crimson"
        assert other not in page.content()


def test_new_pictures_leave_nothing_behind(visit: Visit, address: str) -> None:
    page = visit(address)
    counts = []
    for _ in range(3):
        for name in ("cat.jpg", "coffee.jpg", "rocket.jpg"):
            choose_example(page, name)
            page.locator("#everything-picture img").wait_for()
        gc.collect()
        kept = [type(kept) for kept in gc.get_objects() if type(kept) in (gr.Image, Picture)]
        counts.append((kept.count(gr.Image), kept.count(Picture)))
    assert counts[1] == counts[2], counts


def test_cancelling(visit: Visit, address: str) -> None:
    page = visit(address)
    choose_example(page, "coffee.jpg")
    page.locator("#everything-picture img").wait_for()
    points = page.locator("#points-per-side input[type=number]")
    points.fill("64")
    points.press("Tab")
    page.get_by_role("button", name="Find masks").click()
    page.get_by_text("of 4096").first.wait_for()
    page.get_by_role("button", name="Cancel").click()
    said(page, "everything-status", "Cancelled")
    # Until the page knows that the work has ended, it passes over a second press.
    page.get_by_text("of 4096").first.wait_for(state="hidden")
    points.fill("4")
    points.press("Tab")
    page.get_by_role("button", name="Find masks").click()
    said(page, "everything-status", "post-process")


def test_what_was_said_of_the_last_run(
    visit: Visit, address: str, tiny_networks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = visit(address)
    choose_example(page, "cat.jpg")
    page.locator("#everything-picture img").wait_for()
    begun, go_on = held(tiny_networks, "segment", monkeypatch)
    page.get_by_role("button", name="Find masks").click()
    begun.wait()
    page.get_by_role("button", name="Cancel").click()
    said(page, "everything-status", "Cancelled")
    page.wait_for_timeout(1000)  # until the page knows that the work has ended
    page.get_by_role("button", name="Find masks").click()
    page.locator("#everything-status", has_text="Cancelled").wait_for(state="hidden")
    go_on.set()
    said(page, "everything-status", "post-process")


def test_on_a_phone(visit: Visit, address: str) -> None:
    page = visit(address, width=390, height=844)
    choose_example(page, "coffee.jpg")
    for name in ("Everything", "Compare", "Inside", "Click"):
        open_tab(page, name)
        page.locator(".picture img >> visible=true").first.wait_for()
        overhang = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(overhang) <= 0, name
    said(page, "click-status", "encoded in")
    click_picture(page, "click-picture", 0.5, 0.5)
    said(page, "click-status", "Masks in")
    downloads(page, "click")
    cut_off = "name => name.scrollWidth > name.clientWidth"
    assert not page.locator("#click-files .stem").first.evaluate(cut_off)
    stem, suffix, link, cross = (
        page.locator(f"#click-files {part}").first.bounding_box()
        for part in (".stem", ".ext", "a", "button")
    )
    assert stem["y"] == suffix["y"]  # on one line
    assert suffix["x"] + suffix["width"] <= link["x"]
    assert link["x"] + link["width"] <= cross["x"]


def press(page: Any, control: Any) -> None:
    """Press a control as one does without a mouse."""
    control.focus()
    page.keyboard.press("Enter")


def type_numbers(page: Any, numbers: dict[str, str]) -> None:
    """Type numbers into fields that have just opened, until they stay.

    Gradio fills a field with its first value some milliseconds after it can be typed into.
    """
    fields = {page.locator(f"#{name} input"): number for name, number in numbers.items()}
    for _ in range(PATIENCE // 500):
        for field, number in fields.items():
            field.fill(number)
        page.wait_for_timeout(500)
        if all(field.input_value() == number for field, number in fields.items()):
            return
    raise AssertionError(f"the fields never kept {numbers}")


def luminance(color: str) -> float:
    """WCAG's relative luminance of rgb(r, g, b)."""
    shares = np.array(color[4:-1].split(","), dtype=float) / 255
    linear = np.where(shares <= 0.03928, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def plus_at(picture: np.ndarray, across: float, down: float) -> bool:
    """Whether a green point is drawn at these fractions of the picture."""
    return sign_at(picture, across, down, color=1)


def minus_at(picture: np.ndarray, across: float, down: float) -> bool:
    """Whether a red point is drawn at these fractions of the picture."""
    return sign_at(picture, across, down, color=0)


def sign_at(picture: np.ndarray, across: float, down: float, color: int) -> bool:
    """Whether there is a white sign on a channel's colour, give or take two pixels."""
    height, width = picture.shape[:2]
    x, y = round(across * width), round(down * height)
    near = picture[y - 8 : y + 9, x - 8 : x + 9].astype(int)
    others = np.delete(near, color, axis=-1).max(axis=-1)
    colored = (near[..., color] - others > 40).sum()
    return bool(colored > 30 and picture[y - 2 : y + 3, x - 2 : x + 3].min(axis=-1).max() > 180)
