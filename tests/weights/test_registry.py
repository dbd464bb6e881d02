from __future__ import annotations

import re

import pytest

from expedit_sam.model.architectures import ARCHITECTURES
from expedit_sam.weights.registry import CHECKPOINTS


@pytest.mark.parametrize("model", CHECKPOINTS)
def test_entry_is_complete(model: str) -> None:
    checkpoint = CHECKPOINTS[model]
    assert checkpoint.model == model
    assert model in ARCHITECTURES
    assert checkpoint.url == f"https://dl.fbaipublicfiles.com/segment_anything/{checkpoint.file}"
    assert re.fullmatch("[0-9a-f]{64}", checkpoint.sha256)
    assert checkpoint.size > 10**8
    assert checkpoint.licence == "Apache-2.0"
