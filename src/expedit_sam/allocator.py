"""How the C library's allocator treats the large blocks that a network frees."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names in glibc's mallopt, less their M_


def keep_freed_memory() -> None:
    """Have glibc use freed memory again instead of asking Linux for new pages, which it clears.

    It is called once there is a network to run, since reading one frees much that nobody needs
    again. Who sets glibc's own variables (``MALLOC_...``, ``GLIBC_TUNABLES``) keeps them.
    """
    if sys.platform != "linux":
        return
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda option, value: 0)
    mallopt(_MMAP_THRESHOLD, 64 * 2**20)  # smaller blocks come from the heap,
    mallopt(_TRIM_THRESHOLD, 256 * 2**20)  # which keeps so much that is free
