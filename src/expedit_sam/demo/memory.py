"""Memory that was freed, given back to the computer, where the C library is glibc.

By itself glibc gives each of a server's many threads an arena of its own, and keeps in it what the
thread has freed: memory grows although nothing is kept.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

# glibc's number for the most arenas that threads share (malloc.h, M_ARENA_MAX).
_ARENA_MAX = -8


def share_arenas() -> None:
    """Let threads that start from now on share two arenas."""
    _glibc("mallopt", _ARENA_MAX, 2)


def give_back() -> None:
    """Return what is free to the system."""
    _glibc("malloc_trim", 0)


def _glibc(name: str, *arguments: int) -> None:
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            getattr(ctypes.CDLL("libc.so.6"), name)(*arguments)
