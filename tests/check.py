"""All checks of the project, one after the other: format, lint, types, tests.

python tests/check.py
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
CHECKS = (
    ["ruff", "format", "--check", "."],
    ["ruff", "check", "."],
    ["mypy"],
    # Two processes of one thread each; what a file's tests share, they make once.
    ["pytest", "--numprocesses=2", "--dist=loadfile", "--no-loadscope-reorder"],
)


def main() -> int:
    # The original package, to compare with; without it those tests say that they are skipped.
    subprocess.run([sys.executable, ROOT / "tests" / "get_original.py"], cwd=ROOT, check=False)
    # A browser for the tests of the demo; without it they say so too.
    subprocess.run([sys.executable, ROOT / "tests" / "get_chromium.py"], cwd=ROOT, check=False)
    failed = [
        check[0]
        for check in CHECKS
        if subprocess.run([sys.executable, "-m", *check], cwd=ROOT, check=False).returncode
    ]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
