from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from expedit_sam.allocator import give_back

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")

# New pages that twenty blocks of 40 MB take, one after the other; by itself glibc returns each.
PAGES = """
import resource
from expedit_sam.allocator import keep_freed_memory
keep_freed_memory()
def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
block = b"x" * (40 << 20)
del block
before = pages()
for _ in range(20):
    block = b"x" * (40 << 20)
    del block
print(pages() - before)
"""

# Arenas of eight threads that run at once; by itself glibc gives each its own.
ARENAS = """
import ctypes, threading
from expedit_sam.allocator import share_arenas
share_arenas()
all_begun = threading.Barrier(9)
def allocate():
    all_begun.wait()
    block = b"x" * 10_000
    all_begun.wait()
threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
all_begun.wait()
all_begun.wait()
ctypes.CDLL(None).malloc_stats()
"""


def measured(script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    own.pop("GLIBC_TUNABLES", None)
    command = [sys.executable, "-c", script]
    return subprocess.run(command, env=own | variables, capture_output=True, check=True, text=True)


def test_freed_memory_is_used_again_unless_glibc_is_told_something_else() -> None:
    assert int(measured(PAGES).stdout) < 1000
    assert int(measured(PAGES, MALLOC_PERTURB_="0").stdout) > 10_000


def test_threads_share_two_arenas_unless_glibc_is_told_something_else() -> None:
    assert measured(ARENAS).stderr.count("Arena ") <= 2
    assert measured(ARENAS, MALLOC_ARENA_MAX="4").stderr.count("Arena ") == 4


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
