from __future__ import annotations

from typing import get_args

import pytest
import torch

from expedit_sam.cli import network
from expedit_sam.hourglass import PRESETS
from expedit_sam.model.architectures import ARCHITECTURES


def test_options_offer_all_there_is() -> None:
    assert get_args(get_args(network.ModelOption)[0]) == tuple(ARCHITECTURES)
    help_text = get_args(network.SpeedOption)[1].help
    assert all(preset in help_text for preset in PRESETS)


@pytest.mark.usefixtures("tiny_vit_s")
def test_network_as_chosen() -> None:
    sam = network.load_network("vit_s", "random", "balanced", "cpu")
    assert sam.image_encoder.hourglass == PRESETS["balanced"]
    assert sam.device == torch.device("cpu")


@pytest.mark.usefixtures("tiny_vit_s")
@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_takes_the_best_device(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, expected: str
) -> None:
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(
        "expedit_sam.build.build_sam", lambda model, **options: chosen.append(options["device"])
    )
    network.load_network("vit_s", "random", "exact", "auto")
    assert chosen == [expected]
