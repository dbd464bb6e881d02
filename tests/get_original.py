"""Fetch the original segment-anything 1.0 into a folder of its own, for the tests that compare.

python tests/get_original.py
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / ".original"

if __name__ == "__main__":
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--upgrade"]
    sys.exit(subprocess.call([*pip, "--target", str(FOLDER), "segment-anything==1.0"]))
