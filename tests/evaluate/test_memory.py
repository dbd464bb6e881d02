from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from expedit_sam.evaluate import memory

MEASURE = """
import numpy as np
import torch

from expedit_sam.evaluate.memory import PeakMemory

memory = PeakMemory(torch.device("cpu"))
np.ones(50_000_000)  # 400 MB, and gone
memory.start()
before = memory.bytes()
held = np.ones(25_000_000)
print(memory.bytes() - before)
"""


def test_a_system_that_does_not_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = tmp_path / "status"
    monkeypatch.setattr(memory, "_STATUS", status)
    peak = memory.PeakMemory(torch.device("cpu"))
    assert peak.bytes() is None
    status.write_text("Name:\tpython\nVmRSS:\t1 kB\n")
    assert peak.bytes() is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets an earlier peak")
def test_peak_is_that_since_the_start() -> None:
    # In a process of its own: others' threads may free memory meanwhile.
    grown = subprocess.run(
        [sys.executable, "-c", MEASURE], check=True, capture_output=True, text=True
    )
    assert 180e6 < int(grown.stdout) < 300e6
