"""The command line, ``expedit-sam``: one file a command, on the public API alone."""

from expedit_sam.cli.commands import app, main

__all__ = ["app", "main"]
