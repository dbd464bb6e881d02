from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from expedit_sam.evaluate.memory import PeakMemory


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets an earlier peak")
def test_peak_is_that_since_the_start() -> None:
    memory = PeakMemory(torch.device("cpu"))
    np.ones(50_000_000)  # 400 MB, and gone
    memory.start()
    before = memory.bytes()
    held = np.ones(25_000_000)
    after = memory.bytes()
    assert before is not None
    assert after is not None
    assert 0.9 * held.nbytes < after - before < 1.5 * held.nbytes
