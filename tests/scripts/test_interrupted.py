"""Ctrl+C in each of the scripts."""

from __future__ import annotations

import argparse
import runpy
from pathlib import Path

import pytest

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
