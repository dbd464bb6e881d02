"""How much memory something takes at most."""

from __future__ import annotations

from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_FORGET_PEAK = "5"  # resets VmHWM (man 5 proc)


class PeakMemory:
    """The most memory held since ``start``, or since the process began where that is not called.

    Arguments:
        device: where the network is. On CUDA the memory is PyTorch's on it, else this process's.
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
            return  # not Linux, where bytes() is None

    def bytes(self) -> int | None:
        """The peak in bytes; None where the system does not say."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        try:
            return int(_STATUS.read_text().split("VmHWM:")[1].split()[0]) * 1024
        except (OSError, IndexError):  # not Linux, or a sandbox (gVisor) that leaves it out
            return None
