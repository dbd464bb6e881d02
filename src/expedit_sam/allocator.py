"""What the C library's allocator does with the memory that a network or a thread frees.

All this is for glibc; with another C library nothing happens. Where the environment has glibc's own
settings (``MALLOC_...``, ``GLIBC_TUNABLES``), those hold.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress

# Options of glibc's mallopt, where their names begin with M_.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8


def keep_freed_memory() -> None:
    """Have glibc use freed memory again instead of asking Linux for new pages, which it clears.

    To be called once there is a network to run: reading one frees much that is not needed again.
    """
    _set(_MMAP_THRESHOLD, 64 * 2**20)  # bytes: smaller blocks come from the heap,
    _set(_TRIM_THRESHOLD, 256 * 2**20)  # which keeps this much free memory


def share_arenas() -> None:
    """Let threads that start from now on share two arenas.

    By itself glibc gives each of a server's many threads an arena of its own, and keeps in it what
    the thread has freed: the process grows although nothing is held.
    """
    _set(_ARENA_MAX, 2)


def give_back() -> None:
    """Return what is free to the system."""
    _glibc("malloc_trim", 0)


def _set(option: int, value: int) -> None:
    if not any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        _glibc("mallopt", option, value)


def _glibc(name: str, *arguments: int) -> None:
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            getattr(ctypes.CDLL(None), name)(*arguments)
