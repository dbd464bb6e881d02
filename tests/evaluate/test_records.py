from __future__ import annotations

from pathlib import Path

import pytest

from expedit_sam.errors import InputError
from expedit_sam.evaluate.records import Records

FIGURES = {"click": {"iou": [0.25, 0.123456789], "seconds": [1.5]}}
ROUNDED = {"click": {"iou": [0.25, 0.12346], "seconds": [1.5]}}


def test_what_was_added_is_there_again(tmp_path: Path) -> None:
    records = Records(tmp_path, "published:location=6", {"seed": 0})
    records.add("a.jpg", FIGURES)
    records.add("b.jpg", FIGURES)
    assert records.images == {"a.jpg": ROUNDED, "b.jpg": ROUNDED}
    assert Records(tmp_path, "published:location=6", {"seed": 0}).images == records.images


def test_another_identity_has_records_of_its_own(tmp_path: Path) -> None:
    Records(tmp_path, "fast", {"seed": 0}).add("a.jpg", FIGURES)
    assert Records(tmp_path, "fast", {"seed": 1}).images == {}
    assert len(list(tmp_path.iterdir())) == 2


def test_a_line_that_was_not_finished_is_dropped(tmp_path: Path) -> None:
    records = Records(tmp_path, "fast", {})
    records.add("a.jpg", FIGURES)
    with records.file.open("a") as file:
        file.write('{"image": "b.jpg", "figu')
    again = Records(tmp_path, "fast", {})
    assert list(again.images) == ["a.jpg"]
    again.add("c.jpg", FIGURES)
    assert list(Records(tmp_path, "fast", {}).images) == ["a.jpg", "c.jpg"]


@pytest.mark.parametrize("line", ["\0\0\0", '{"image": "a.jpg"}', "[1]"])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    records = Records(tmp_path, "fast", {})
    with records.file.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=r"\.jsonl is damaged: delete it"):
        Records(tmp_path, "fast", {})


def test_even_the_first_line_may_be_unfinished(tmp_path: Path) -> None:
    records = Records(tmp_path, "fast", {})
    records.file.write_text("{")
    Records(tmp_path, "fast", {}).add("a.jpg", FIGURES)
    assert list(Records(tmp_path, "fast", {}).images) == ["a.jpg"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_named_with_the_remedy(tmp_path: Path) -> None:
    records = Records(tmp_path, "fast", {})
    records.file.unlink()
    records.file.symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"cannot write .*jsonl \(No space left.*make room"):
        records.add("a.jpg", FIGURES)
