"""The web demo: ``python app.py`` is ``expedit-sam demo`` and takes its options."""

from __future__ import annotations

import sys

from expedit_sam.cli import app

if __name__ == "__main__":
    app(["demo", *sys.argv[1:]], prog_name="expedit-sam")
