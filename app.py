"""The web demo: ``python app.py`` is ``expedit-sam demo`` and takes its options."""

from __future__ import annotations

import sys

from expedit_sam.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "demo")
    main()
