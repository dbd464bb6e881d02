from __future__ import annotations

from types import SimpleNamespace

import pytest
from rich.console import Console

from expedit_sam.cli import progress
from expedit_sam.cli.progress import BatchProgress, ImageProgress


def segment_two(bars: ImageProgress) -> None:
    with bars:
        for name in ("cat [1].jpg", "dog.jpg"):
            bars.begin(name)
            bars.points(64, 128)
            bars.points(128, 128)
            bars.end(f"{name}: 3 masks")


def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def terminal(**options: object) -> Console:
        return Console(force_terminal=True, width=100, **options)

    monkeypatch.setattr(progress, "Console", terminal)
    segment_two(ImageProgress(2))
    shown = capsys.readouterr().err
    assert "images" in shown
    assert "2/2" in shown
    assert "points of dog.jpg" in shown
    assert "128/128" in shown
    assert "cat [1].jpg: 3 masks" in shown


def test_lines_elsewhere(capsys: pytest.CaptureFixture) -> None:
    segment_two(ImageProgress(2))
    captured = capsys.readouterr()
    assert captured.err == "cat [1].jpg: 3 masks\ndog.jpg: 3 masks\n"
    assert captured.out == ""


def test_a_batch_prints_a_line_a_minute_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    clock = SimpleNamespace(monotonic=lambda: 0.0)
    monkeypatch.setattr(progress, "time", clock)
    with BatchProgress() as bars:
        for now in (30.0, 61.0, 90.0, 122.0):
            clock.monotonic = lambda now=now: now
            bars.update(int(2 * now), 1000, 1, now)
    assert capsys.readouterr().err.splitlines() == [
        "122 of 1000 images, 2.00 images/s, 1 failed, left: 7 min",
        "244 of 1000 images, 2.00 images/s, 1 failed, left: 6 min",
    ]
