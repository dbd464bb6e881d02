"""Ctrl+C and SIGTERM in each of the scripts."""

from __future__ import annotations

import argparse
import runpy
import subprocess
import sys
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


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_terminated_script_clears_away_what_is_being_written(
    script: Path, tmp_path: Path
) -> None:
    program = """if True:
        import argparse, runpy, signal, sys
        from pathlib import Path

        from expedit_sam.appearing import appearing_together

        def terminate(*_):
            with appearing_together(Path("out")) as place:
                (place / "half").touch()
                signal.raise_signal(signal.SIGTERM)

        argparse.ArgumentParser.parse_args = terminate
        runpy.run_path(sys.argv[1], run_name="__main__")
    """
    ended = subprocess.run([sys.executable, "-c", program, str(script)], cwd=tmp_path, check=False)
    assert ended.returncode == 143
    assert list((tmp_path / "out").iterdir()) == []
