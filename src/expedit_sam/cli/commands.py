"""The commands under one roof, and what becomes of errors."""

from __future__ import annotations

import io
import os
import signal
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from expedit_sam.cli.batch import batch
from expedit_sam.cli.bench import bench
from expedit_sam.cli.demo import demo
from expedit_sam.cli.evaluate import evaluate
from expedit_sam.cli.export import export
from expedit_sam.cli.masks import masks
from expedit_sam.cli.models import models
from expedit_sam.cli.predict import predict
from expedit_sam.cli.serve import serve
from expedit_sam.cli.tune import tune
from expedit_sam.errors import InputError, is_out_of_memory, one_line

USER_ERROR = 2
INTERRUPTED = 130
TERMINATED = 143

_INSTALL_ALL = "install expedit-sam with its dependencies, or pass 'masks' --exported FOLDER"
_USE_LESS_MEMORY = "try a smaller image or --model, or fewer --points-per-batch"


class _Commands(TyperGroup):
    """Turns errors that a user can cause into one line and an exit code; bugs keep a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _leave("interrupted", INTERRUPTED)
        except InputError as error:
            _leave(f"error: {error}", USER_ERROR)
        except ModuleNotFoundError as error:
            if not error.name or error.name.startswith("expedit_sam"):
                raise
            _leave(f"error: this needs {error.name}: {_INSTALL_ALL}", USER_ERROR)
        except BrokenPipeError:
            raise  # whoever read our output has stopped reading: no error
        except OSError as error:
            reason = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
            _leave(f"error: {reason or error}", USER_ERROR)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            _leave(f"error: out of memory: {_USE_LESS_MEMORY}", USER_ERROR)


def _leave(message: str, code: int) -> NoReturn:
    """End the program with a line on standard error and an exit code."""
    typer.echo(one_line(" ".join(message.splitlines())), err=True)
    raise typer.Exit(code) from None


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(masks)
app.command()(predict)
app.command()(batch)
app.command()(bench)
app.command()(evaluate)
app.command()(tune)
app.command()(export)
app.command()(demo)
app.command()(serve)
app.add_typer(models, name="models")


def _print_version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(f"expedit-sam {version('expedit-sam')}")
        except PackageNotFoundError:
            typer.echo("expedit-sam, not installed")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Segment Anything, made fast without training.

    \b
    Example: all masks of a photograph, in ./out
      expedit-sam masks photo.jpg
    """


def end_on_termination() -> None:
    """End on SIGTERM as after Ctrl+C, by an exception, so that unfinished files go."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))


def print_any_name() -> None:
    """Escape what an output's encoding lacks, since names of files can be of any bytes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def main() -> None:
    """The console script."""
    print_any_name()
    end_on_termination()
    app(_arguments(), prog_name="expedit-sam")


def _arguments() -> list[str]:
    """The command line; left to itself on Windows, typer takes photo[1].jpg for a pattern."""
    given = sys.argv[1:]
    return [os.path.expanduser(a) for a in given] if os.name == "nt" else given  # noqa: PTH111
