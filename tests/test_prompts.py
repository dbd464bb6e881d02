from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from expedit_sam.errors import InputError
from expedit_sam.prompts import (
    check_inside,
    mask_to_low_res_logits,
    parse_box,
    parse_points,
    read_mask,
)

coordinates = st.floats(-1e4, 1e4)


@given(st.lists(st.tuples(coordinates, coordinates, st.sampled_from([0, 1, None])), max_size=5))
def test_points_as_written(written: list[tuple[float, float, int | None]]) -> None:
    texts = [",".join(str(part) for part in point if part is not None) for point in written]
    points, labels = parse_points(texts)
    assert points.shape == (len(written), 2)
    assert points.tolist() == [[x, y] for x, y, _ in written]
    assert labels.tolist() == [1 if label is None else label for _, _, label in written]


@pytest.mark.parametrize("text", ["abc", "", "1", "1,2,1,1", "1;2", "1,nan", "inf,2", "1,,2"])
def test_what_is_no_point(text: str) -> None:
    with pytest.raises(InputError, match="is not X,Y or X,Y,LABEL"):
        parse_points(["1,2", text])


@pytest.mark.parametrize("label", ["2", "-1", "0.5"])
def test_labels_are_0_or_1(label: str) -> None:
    with pytest.raises(InputError, match="label other than"):
        parse_points([f"1,2,{label}"])


def test_box() -> None:
    assert parse_box(" 1, 2.5,30,40").tolist() == [1, 2.5, 30, 40]


@pytest.mark.parametrize("text", ["1,2,3", "1,2,3,4,5", "a,b,c,d", "1,2,3,nan"])
def test_what_is_no_box(text: str) -> None:
    with pytest.raises(InputError, match="is not X0,Y0,X1,Y1"):
        parse_box(text)


@pytest.mark.parametrize("text", ["30,2,1,40", "1,40,30,2", "1,2,1,40"])
def test_reversed_box(text: str) -> None:
    with pytest.raises(InputError, match="is empty"):
        parse_box(text)


def test_inside() -> None:
    check_inside(np.array([[0, 0], [80, 60]]), (60, 80), "point")


@pytest.mark.parametrize("point", [(81, 5), (5, 61), (-1, 5), (5, -0.5)])
def test_outside(point: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="outside the image of 80x60 pixels: x counts"):
        check_inside(np.array([(5, 5), point]), (60, 80), "point")


@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**32 - 1))
def test_logits_become_the_mask_again(height: int, width: int, seed: int) -> None:
    """Scaled up as a network's logits are, they cover what was painted, within a low-res pixel."""
    side = 64
    mask = np.zeros((height, width), np.uint8)
    x0, y0, x1, y1 = np.random.default_rng(seed).random(4) * (width, height, width, height)
    cv2.rectangle(mask, (int(x0), int(y0)), (int(x1), int(y1)), 1, cv2.FILLED)
    logits = mask_to_low_res_logits(mask.astype(bool), (side, side))
    assert logits.shape == (1, side, side)
    assert logits.dtype == np.float32
    scale = side / max(height, width)
    seen = logits[0, : max(1, round(height * scale)), : max(1, round(width * scale))]
    back = cv2.resize(seen, (width, height), interpolation=cv2.INTER_LINEAR) > 0
    blur = 2 * int(np.ceil(1 / scale)) + 1
    kernel = np.ones((blur, blur), np.uint8)
    assert not (back & ~cv2.dilate(mask, kernel).astype(bool)).any()
    assert not (cv2.erode(mask, kernel).astype(bool) & ~back).any()


def test_padding_is_outside_the_mask() -> None:
    logits = mask_to_low_res_logits(np.ones((20, 80), bool), (64, 64))[0]
    assert (logits[:16] > 0).all()
    assert (logits[16:] < 0).all()


def test_details_finer_than_a_low_res_pixel_count_by_their_share() -> None:
    mask = np.zeros((256, 256), bool)
    mask[:, ::4] = True
    np.testing.assert_allclose(mask_to_low_res_logits(mask, (64, 64)), -4)  # of -8 to 8


@pytest.mark.parametrize("white", [255, 1])
def test_mask_from_a_picture(tmp_path: Path, white: int) -> None:
    mask = np.zeros((30, 40), np.uint8)
    mask[5:20, 10:30] = white
    Image.fromarray(mask).save(tmp_path / "mask.png")
    logits = read_mask(tmp_path / "mask.png", (30, 40, 3), (64, 64))
    np.testing.assert_array_equal(logits, mask_to_low_res_logits(mask > 0, (64, 64)))


def test_any_bright_colour_is_the_mask_and_no_trace_of_it_elsewhere(tmp_path: Path) -> None:
    mask = np.zeros((30, 40), bool)
    mask[5:20, 10:30] = True
    picture = np.where(mask[..., None], (250, 0, 20), 30)  # JPEG leaves black not quite black
    Image.fromarray(picture.astype(np.uint8)).save(tmp_path / "mask.png")
    logits = read_mask(tmp_path / "mask.png", (30, 40), (64, 64))
    np.testing.assert_array_equal(logits, mask_to_low_res_logits(mask, (64, 64)))


def test_mask_of_another_size(tmp_path: Path) -> None:
    Image.new("L", (40, 30), "white").save(tmp_path / "mask.png")
    with pytest.raises(InputError, match="is 40x30 pixels and the image 41x30"):
        read_mask(tmp_path / "mask.png", (30, 41), (64, 64))


def test_black_mask(tmp_path: Path) -> None:
    Image.new("L", (40, 30)).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match="black all over"):
        read_mask(tmp_path / "mask.png", (30, 40), (64, 64))


@pytest.mark.parametrize("shape", [(64, 64), (1, 64, 64)])
def test_mask_from_logits(tmp_path: Path, shape: tuple[int, ...]) -> None:
    logits = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.save(tmp_path / "logits.npy", logits)
    read = read_mask(tmp_path / "logits.npy", (30, 40), (64, 64))
    np.testing.assert_array_equal(read, logits.reshape(1, 64, 64))


@pytest.mark.parametrize("array", [np.zeros((3, 64, 64)), np.ones((64, 64), bool)])
def test_arrays_that_are_no_logits(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "logits.npy", array)
    with pytest.raises(InputError, match="1x64x64 floats"):
        read_mask(tmp_path / "logits.npy", (30, 40), (64, 64))


@pytest.mark.parametrize("kind", [">f4", "<f2", np.longdouble])
def test_logits_of_another_kind(tmp_path: Path, kind: str) -> None:
    np.save(tmp_path / "logits.npy", np.ones((64, 64), kind))
    read = read_mask(tmp_path / "logits.npy", (30, 40), (64, 64))
    assert (read == 1).all()
    assert read.dtype == np.float32


@pytest.mark.parametrize(
    "contents", [b"", b"\x93NUMPY\1\0\5\0((((\n", b"\x93NUMPY\1\0\3\0{}\n", "archive"]
)
def test_damaged_logits(tmp_path: Path, contents: bytes | str) -> None:
    with (tmp_path / "logits.npy").open("wb") as file:
        if isinstance(contents, bytes):
            file.write(contents)
        else:
            np.savez(file, np.zeros((64, 64), np.float32))
    with pytest.raises(InputError, match=r"cannot be read as \.npy: save it with numpy\.save"):
        read_mask(tmp_path / "logits.npy", (30, 40), (64, 64))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    np.save(tmp_path / "logits.npy", np.full((64, 64), value))
    with pytest.raises(InputError, match=r"logits\.npy holds NaN or infinity"):
        read_mask(tmp_path / "logits.npy", (30, 40), (64, 64))


def test_pickles_are_not_executed(tmp_path: Path) -> None:
    np.save(tmp_path / "logits.npy", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"cannot be read as \.npy"):
        read_mask(tmp_path / "logits.npy", (30, 40), (64, 64))


@pytest.mark.parametrize("name", ["mask.png", "logits.npy"])
def test_missing_mask(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_mask(tmp_path / name, (30, 40), (64, 64))
