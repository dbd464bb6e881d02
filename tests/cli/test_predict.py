from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from expedit_sam import SamPredictor, build_sam

UNTRAINED = ("--checkpoint", "random")

pytestmark = pytest.mark.usefixtures("tiny_vit_s")


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def annotations() -> list[dict]:
    return json.loads(Path("out/photo_prompted.json").read_text())["annotations"]


def mask(number: int = 1) -> np.ndarray:
    return np.asarray(Image.open(f"out/photo_prompted_masks/{number:03d}.png")) > 0


@pytest.fixture
def predictor(photo: np.ndarray) -> SamPredictor:
    predictor = SamPredictor(build_sam("vit_s", checkpoint="random"))
    predictor.set_image(photo)
    return predictor


def test_best_mask_of_a_point(run: Callable, photo_file: Path, predictor: SamPredictor) -> None:
    result = run("predict", photo_file, "--point", "90,60", *UNTRAINED)
    assert result.exit_code == 0
    masks, scores, logits = predictor.predict(np.array([[90, 60]]), np.array([1]))
    best = scores.argmax()
    np.testing.assert_array_equal(mask(), masks[best])
    np.testing.assert_array_equal(np.load("out/photo_prompted_logits.npy"), logits[best][None])
    (annotation,) = annotations()
    assert annotation["predicted_iou"] == pytest.approx(scores[best])
    assert annotation["point_coords"] == [[90, 60]]
    assert annotation["point_labels"] == [1]
    assert f"predicted IoU {scores[best]:.3f}" in result.stdout
    written = [
        "photo_prompted.json",
        "photo_prompted_logits.npy",
        "photo_prompted_masks",
        "photo_prompted_masks/001.png",
    ]
    assert files(Path("out")) == [*written, "photo_prompted_overlay.jpg"]


def test_all_candidates_best_first(
    run: Callable, photo_file: Path, predictor: SamPredictor
) -> None:
    run("predict", photo_file, "--point", "90,60", "--all", *UNTRAINED)
    masks, scores, _ = predictor.predict(np.array([[90, 60]]), np.array([1]))
    assert [a["predicted_iou"] for a in annotations()] == pytest.approx(sorted(scores)[::-1])
    for number, index in enumerate(scores.argsort()[::-1], 1):
        np.testing.assert_array_equal(mask(number), masks[index])


def test_points_and_box(run: Callable, photo_file: Path, predictor: SamPredictor) -> None:
    points = ("--point", "90,60", "--point", "10,20,0")
    run("predict", photo_file, *points, "--box", "60,40,120,90", "--no-overlay", *UNTRAINED)
    masks, scores, _ = predictor.predict(
        np.array([[90, 60], [10, 20]]),
        np.array([1, 0]),
        np.array([60, 40, 120, 90]),
        multimask_output=False,
    )
    np.testing.assert_array_equal(mask(), masks[0])
    (annotation,) = annotations()
    assert annotation["predicted_iou"] == pytest.approx(scores[0])
    assert annotation["box"] == [60, 40, 120, 90]
    assert not Path("out/photo_prompted_overlay.jpg").exists()


def test_several_points_or_a_box_say_which_mask(
    run: Callable, photo_file: Path, predictor: SamPredictor
) -> None:
    run("predict", photo_file, "--point", "90,60", "--point", "10,20,0", *UNTRAINED)
    points, labels = np.array([[90, 60], [10, 20]]), np.array([1, 0])
    masks, _, _ = predictor.predict(points, labels, multimask_output=False)
    np.testing.assert_array_equal(mask(), masks[0])
    run("predict", photo_file, "--box", "60,40,120,90", *UNTRAINED)
    masks, _, _ = predictor.predict(box=np.array([60, 40, 120, 90]), multimask_output=False)
    np.testing.assert_array_equal(mask(), masks[0])


def test_refining_with_the_logits_of_before(
    run: Callable, photo_file: Path, predictor: SamPredictor
) -> None:
    run("predict", photo_file, "--point", "90,60", *UNTRAINED)
    before = np.load("out/photo_prompted_logits.npy")
    point = ("--point", "10,20,0")
    run("predict", photo_file, *point, "--mask", "out/photo_prompted_logits.npy", *UNTRAINED)
    masks, _, _ = predictor.predict(
        np.array([[10, 20]]), np.array([0]), mask_input=before, multimask_output=False
    )
    np.testing.assert_array_equal(mask(), masks[0])


def test_a_painted_mask_alone(run: Callable, photo_file: Path, photo: np.ndarray) -> None:
    painted = np.zeros(photo.shape[:2], np.uint8)
    painted[40:90, 60:120] = 255
    Image.fromarray(painted).save("painted.png")
    assert run("predict", photo_file, "--mask", "painted.png", *UNTRAINED).exit_code == 0
    assert mask().shape == photo.shape[:2]


def test_prompts_are_in_the_picture_as_a_person_sees_it(
    run: Callable, tmp_path: Path, photo: np.ndarray
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo).save(tmp_path / "photo.jpg", exif=exif)
    height, width = photo.shape[:2]
    assert height < width
    assert run("predict", "photo.jpg", "--point", f"5,{width}", *UNTRAINED).exit_code == 0
    assert mask().shape == (width, height)
    assert run("predict", "photo.jpg", "--point", f"{width},5", *UNTRAINED).exit_code == 2


@pytest.mark.parametrize(
    ("prompts", "reason"),
    [
        ((), "nothing to look for"),
        (("--point", "abc"), "'abc' is not X,Y"),
        (("--point", "1,2,2"), "label other than"),
        (("--point", "1"), "'1' is not X,Y"),
        (("--point", "90,60", "--point", "222,10"), "point 222,10 lies outside"),
        (("--point", "-1,10"), "point -1,10 lies outside"),
        (("--box", "60,40,300,90"), "box corner 300,90 lies outside"),
        (("--box", "120,90,60,40"), "top left corner comes first"),
        (("--box", "1,2,3"), "is not X0,Y0,X1,Y1"),
        (("--box", "1,2,30,40", "--box", "5,6,70,80"), "--box was given twice"),
        (("--mask", "missing.png"), "missing.png does not exist"),
        (("--mask", "small.png"), "small.png is 8x8 pixels and the image 221x150"),
    ],
)
def test_bad_prompts(
    run: Callable, photo_file: Path, only_error: Callable, prompts: tuple, reason: str
) -> None:
    Image.new("L", (8, 8), "white").save("small.png")
    line = only_error(run("predict", photo_file, *prompts, *UNTRAINED))
    assert reason in line
    assert not Path("out").exists() or files(Path("out")) == []


@pytest.mark.parametrize("name", ["missing.jpg", "notes.jpg", "."])
def test_bad_images(run: Callable, tmp_path: Path, only_error: Callable, name: str) -> None:
    (tmp_path / "notes.jpg").write_text("notes")
    assert f"error: {name} " in only_error(run("predict", name, "--point", "1,1", *UNTRAINED))


def test_folder_that_cannot_be_written(
    run: Callable, photo_file: Path, only_error: Callable
) -> None:
    line = only_error(
        run("predict", photo_file, "--point", "1,1", "--out", "photo.png/x", *UNTRAINED)
    )
    assert "cannot write to" in line
