from __future__ import annotations

from pathlib import Path

import pytest

from expedit_sam.label_files import LABELS_WRITTEN, labelled_image, remember_labels


def written(folder: Path, text: str, image: str, name: str = "a.txt") -> Path:
    """A label file of ours in a folder."""
    path = folder / name
    path.write_text(text)
    remember_labels(path, folder, image)
    return path


@pytest.mark.parametrize("image", ["a.jpg", "../my photos/Käse 写真.png", " spaces .jpg "])
def test_labels_of_ours_are_known_with_their_image(tmp_path: Path, image: str) -> None:
    other = written(tmp_path, "0 0.1 0.2\n", "b.jpg", "b.txt")
    path = written(tmp_path, "0 0.1 0.2\n", image)
    assert labelled_image(path) == image
    assert labelled_image(other) == "b.jpg"


def test_labels_that_somebody_changed_or_renamed_are_not_ours(tmp_path: Path) -> None:
    path = written(tmp_path, "0 0.1 0.2\n", "a.jpg")
    assert labelled_image(path.rename(tmp_path / "b.txt")) is None
    path.write_text("0 0.1 0.3\n")
    assert labelled_image(path) is None
    (tmp_path / LABELS_WRITTEN).unlink()
    assert labelled_image(path) is None


def test_the_last_image_counts(tmp_path: Path) -> None:
    for image in ("one/a.jpg", "two/a.jpg"):
        path = written(tmp_path, "", image)
    assert labelled_image(path) == "two/a.jpg"


def test_a_list_of_hashes_alone_names_no_image(tmp_path: Path) -> None:
    path = written(tmp_path, "0 0.1 0.2\n", "a.jpg")
    known = tmp_path / LABELS_WRITTEN
    known.write_bytes(b"\n".join(line[:64] for line in known.read_bytes().splitlines()))
    assert labelled_image(path) == ""


def test_a_list_that_a_full_disk_cut_short(tmp_path: Path) -> None:
    first = written(tmp_path, "0 0.1 0.2\n", "a.jpg")
    second = written(tmp_path, "0 0.1 0.2\n", "folder/b.jpg", "b.txt")
    known = tmp_path / LABELS_WRITTEN
    known.write_bytes(known.read_bytes()[:-70])
    assert (labelled_image(first), labelled_image(second)) == ("a.jpg", None)
    remember_labels(second, tmp_path, "b.jpg")
    assert labelled_image(second) == "b.jpg"


def test_names_of_two_lines_do_not_end_a_line(tmp_path: Path) -> None:
    path = written(tmp_path, "0 0.1 0.2\n", "one\ntwo.jpg")
    assert labelled_image(path) == "one?two.jpg"
    assert (tmp_path / LABELS_WRITTEN).read_bytes().count(b"\n") == 1
