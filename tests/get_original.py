"""Fetch the original segment-anything 1.0, and timm, into a folder of their own, for the tests that
compare. Both need torchvision, which the tests replace by stand-ins.

python tests/get_original.py
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / ".original"
PACKAGES = ("segment-anything==1.0", "timm==1.0.31")

if __name__ == "__main__":
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--upgrade"]
    sys.exit(subprocess.call([*pip, "--target", str(FOLDER), *PACKAGES]))
