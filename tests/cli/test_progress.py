from __future__ import annotations

import pytest
from rich.console import Console

from expedit_sam.cli import progress
from expedit_sam.cli.progress import ImageProgress


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
