"""Ctrl+C and SIGTERM in each of the scripts."""

from __future__ import annotations

import argparse
import runpy
import signal
from pathlib import Path

import pytest

from expedit_sam.appearing import appearing_together

SCRIPTS = sorted(Path(__file__).parents[2].joinpath("scripts").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_an_interrupted_script_says_so_in_one_line(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", interrupt)
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(script), run_name="__main__")
    assert left.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_terminated_script_clears_away_what_is_being_written(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def terminate(*_: object) -> None:
        assert callable(signal.getsignal(signal.SIGTERM))  # or this process would end
        with appearing_together(tmp_path / "out") as place:
            (place / "half").touch()
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", terminate)
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(script), run_name="__main__")
    assert left.value.code == 143
    assert list((tmp_path / "out").iterdir()) == []
