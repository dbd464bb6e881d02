"""Memory that was freed, given back to the computer."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress


def give_back() -> None:
    """Return what is free to the system, where the C library is glibc; elsewhere do nothing.

    By itself glibc keeps what a thread has freed, and a server's threads take turns: after each
    heavy run another one held a run's worth, although nothing was kept.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)
