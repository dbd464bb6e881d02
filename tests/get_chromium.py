"""Install Debian's Chromium where that is possible, for the tests of the demo.

python tests/get_chromium.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """The program's path, or None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


if __name__ == "__main__":
    if find_chromium() is None and shutil.which("apt-get") and os.geteuid() == 0:
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.call(["apt-get", "update", "-qq"], env=environment)
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends"]
        subprocess.call(
            [*install, "chromium", "fonts-dejavu-core"], env=environment, stdout=subprocess.DEVNULL
        )
    sys.exit(0 if find_chromium() else "no Chromium here: apt-get install chromium")
