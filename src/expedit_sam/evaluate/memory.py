"""How much memory something takes at most."""

from __future__ import annotations

from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_FORGET_PEAK = "5"  # man 5 proc


class PeakMemory:
    """The most memory held, on a device or (on a CPU) by this process, since ``start`` if called.

    Arguments:
        device: where the network is.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def start(self) -> None:
        """Forget what was before."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            return
        try:
            _CLEAR.write_text(_FORGET_PEAK)
        except OSError:
            return  # not Linux: bytes() knows none

    def bytes(self) -> int | None:
        """None where the system does not say."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        try:
            status = _STATUS.read_text()
        except OSError:
            return None
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
