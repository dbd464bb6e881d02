from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from expedit_sam.demo import pictures
from expedit_sam.demo.networks import Networks
from expedit_sam.demo.pictures import example_files, read_full_size, read_picture
from expedit_sam.errors import InputError
from expedit_sam.images import read_image


def test_a_small_picture_is_kept_as_it_is(tmp_path: Path, photo: np.ndarray) -> None:
    Image.fromarray(photo).save(tmp_path / "my photo.png")
    picture = read_picture(tmp_path / "my photo.png")
    np.testing.assert_array_equal(picture.image, photo)
    assert picture.name == "my photo"
    assert picture.size_text == "221 x 150 pixels"


def test_a_large_picture_is_reduced_for_the_page(tmp_path: Path) -> None:
    Image.new("RGB", (2000, 3000), "green").save(tmp_path / "large.png")
    picture = read_picture(tmp_path / "large.png")
    assert picture.full_size == (3000, 2000)
    assert picture.image.shape == (1280, 853, 3)
    assert read_full_size(picture).shape == (3000, 2000, 3)
    assert picture.size_text == "2000 x 3000 pixels, shown at 853 x 1280"


def test_faults_name_the_file_and_not_the_folder(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"^broken\.jpg is no image") as fault:
        read_picture(tmp_path / "broken.jpg")
    assert str(tmp_path) not in str(fault.value)


def test_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MEGAPIXELS", 1)
    Image.new("L", (2000, 1000)).save(tmp_path / "huge.png")
    with pytest.raises(
        InputError, match=r"^huge\.png has 2000x1000 pixels: scale it to at most 1 megapixels"
    ):
        read_picture(tmp_path / "huge.png")


def test_places_are_those_of_the_file(tmp_path: Path) -> None:
    Image.new("RGB", (4000, 3000)).save(tmp_path / "large.png")
    picture = read_picture(tmp_path / "large.png")
    assert picture.place_on_page(2000, 1500) == (640, 480)
    assert picture.place_on_page(0, 0) == (0, 0)
    for place in ((4000, 0), (0, 3000), (-1, 0)):
        with pytest.raises(InputError, match="outside the picture of 4000 x 3000 pixels"):
            picture.place_on_page(*place)


def test_an_upload_that_was_cleared_away(tmp_path: Path, photo: np.ndarray) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    picture = read_picture(path)
    path.unlink()
    with pytest.raises(InputError, match="uploaded too long ago"):
        read_full_size(picture)


def test_a_picture_is_encoded_once_a_speed(tmp_path: Path, tiny_networks: Networks) -> None:
    picture = read_picture(example_files()[0])
    exact = picture.encoding(tiny_networks, "vit_s", "exact")
    assert picture.encoding(tiny_networks, "vit_s", "exact") is exact
    fast = picture.encoding(tiny_networks, "vit_s", "fast")
    assert not np.allclose(exact.predictor.features, fast.predictor.features)
    for speed in ("balanced", "quality"):
        picture.encoding(tiny_networks, "vit_s", speed)
    assert not picture.is_encoded("vit_s", "exact")  # the last three are kept
    assert picture.encoding(tiny_networks, "vit_s", "fast") is fast


def test_examples_come_along() -> None:
    assert [Path(path).name for path in example_files()] == ["cat.jpg", "coffee.jpg", "rocket.jpg"]
    for path in example_files():
        assert read_image(path).shape[2] == 3
