from __future__ import annotations

import platform
import re
from pathlib import Path

import numpy as np
import pytest

from expedit_sam.demo.memory import give_back


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_holes_between_living_blocks_are_given_back() -> None:
    blocks = [np.ones(60_000, np.uint8) for _ in range(1000)]
    living = blocks[::20]
    del blocks
    before = resident()
    give_back()
    assert before - resident() > 20
    assert all(block[0] == 1 for block in living)


def resident() -> float:
    """MB of this process in memory."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    match = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert match
    return int(match[1]) / 1000
