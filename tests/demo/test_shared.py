from __future__ import annotations

import pytest

from expedit_sam.demo.shared import failed
from expedit_sam.errors import InputError


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (InputError("photo.jpg is empty: get it again"), "photo.jpg is empty: get it again"),
        (MemoryError(), "Out of memory: try a smaller picture or model."),
    ],
)
def test_what_a_person_can_cause_is_said_in_a_line(
    error: Exception, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert failed(error) == f"**That did not work:** {reason}"
    assert capsys.readouterr().err == ""


def test_a_fault_of_ours_is_told_in_the_terminal_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "shapes" not in failed(RuntimeError("shapes cannot be multiplied"))
    assert "RuntimeError: shapes cannot be multiplied" in capsys.readouterr().err
