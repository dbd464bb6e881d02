from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from expedit_sam.cli import app


def program(*arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    command = ["-c", code] if code else ["-m", "expedit_sam", *arguments]
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)


COMMANDS = [command.callback.__name__ for command in app.registered_commands if command.callback]


@pytest.mark.parametrize("command", ["", "models", "models list", "models download", *COMMANDS])
def test_help_fits_a_screen(run: Callable, command: str) -> None:
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert "Example" in result.stdout
    assert "expedit-sam" in result.stdout


def test_the_program_itself(tmp_path: Path) -> None:
    result = program("masks", str(tmp_path / "missing.jpg"))
    assert result.returncode == 2
    assert result.stdout == ""
    missing = tmp_path / "missing.jpg"
    assert result.stderr == f"error: {missing} does not exist: check the image's path\n"


def test_help_does_not_wait_for_pytorch() -> None:
    result = program(code="import sys, expedit_sam.cli; print('torch' in sys.modules)")
    assert result.stdout == "False\n"


def test_version(run: Callable) -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("expedit-sam")


def test_no_command_shows_what_each_does(run: Callable) -> None:
    _, commands = run().output.split("Commands:")
    assert len(commands.split("\n")[1:-1]) == len(COMMANDS) + 1
    assert "..." not in commands


def stopped_by(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Exit code and standard error of a command in which an error comes up."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("expedit_sam.prompts.parse_points", fail)
    result = CliRunner().invoke(app, ["predict", "photo.png", "--point", "1,1"])
    return result.exit_code, result.stderr


def test_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert stopped_by(KeyboardInterrupt(), monkeypatch) == (130, "interrupted\n")


def test_termination_clears_away_what_is_being_written(tmp_path: Path) -> None:
    script = """if True:
        import signal
        from pathlib import Path

        from expedit_sam.cli import commands
        from expedit_sam.appearing import appearing_together

        @commands.app.command()
        def wait() -> None:
            with appearing_together(Path("out")) as place:
                (place / "half").touch()
                signal.raise_signal(signal.SIGTERM)

        commands.main()
    """
    ended = subprocess.run([sys.executable, "-c", script, "wait"], cwd=tmp_path, check=False)
    assert ended.returncode == 143
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["masks", "photo[1].jpg"], "photo[1].jpg does not exist"),  # and not: photo1.jpg
        (["batch", "*.jpg", "--shard", "0/1"], "--shard '0/1' is not I/N"),
        (["masks", "~/none.jpg"], f"{Path('~/none.jpg').expanduser()} does not exist"),
    ],
)
def test_windows_expands_no_more_than_the_home_folder(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    for name in ("photo1.jpg", "photo2.jpg"):
        (tmp_path / name).touch()
    code = f"""
import os, sys, types
import typer.core
from expedit_sam.cli import commands
typer.core.os = commands.os = types.SimpleNamespace(name="nt", path=os.path, environ=os.environ)
os.chdir({str(tmp_path)!r})
sys.argv[1:] = {arguments}
commands.main()
"""
    result = program(code=code)
    assert result.returncode == 2
    assert said in result.stderr


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left", "out/x"), "error: out/x: No space left\n"),
        (OSError("encoder error"), "error: encoder error\n"),
        (OSError(errno.EIO, "I/O error"), "error: I/O error\n"),
    ],
)
def test_faults_of_the_system_are_one_line(
    monkeypatch: pytest.MonkeyPatch, error: OSError, line: str
) -> None:
    assert stopped_by(error, monkeypatch) == (2, line)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nsee the manual"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: out of memory\nsee the manual"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    ],
)
def test_out_of_memory_says_what_to_do(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    code, line = stopped_by(error, monkeypatch)
    assert code == 2
    assert line.startswith("error: out of memory: try")
    assert line.count("\n") == 1


def test_our_own_faults_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("expedit_sam.prompts.parse_points", fail)
    result = CliRunner().invoke(app, ["predict", "photo.png", "--point", "1,1"])
    assert isinstance(result.exception, RuntimeError)
    assert result.exc_info is not None


@pytest.mark.parametrize("arguments", [["masks", "photo.png"], ["export"], ["bench"]])
def test_without_pytorch_one_line_says_what_is_missing(
    tmp_path: Path, photo: np.ndarray, arguments: list[str]
) -> None:
    Image.fromarray(photo).save(tmp_path / "photo.png")
    code = f"""
import os, sys
os.chdir({str(tmp_path)!r})
sys.modules["torch"] = None
sys.argv[1:] = {arguments}
from expedit_sam.cli.commands import main
main()
"""
    result = program(code=code)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: this needs torch: install expedit-sam with its dependencies")
