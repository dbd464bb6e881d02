from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from pycocotools import mask as coco

from expedit_sam.batch.passes import PassGenerator, Scaler
from expedit_sam.errors import InputError
from expedit_sam.everything import SamAutomaticMaskGenerator
from expedit_sam.everything.mask_data import MaskData
from expedit_sam.everything.rle import decode_mask, encode_masks
from expedit_sam.model.sam import Sam
from tests.conftest import GOLDEN, golden_file, golden_sam

EVERY_MASK = {"pred_iou_thresh": -1e9, "stability_score_thresh": -1.0}


@pytest.mark.parametrize("name", ["even", "padded"])
@pytest.mark.parametrize("settings", ["plain", "crops", "thresholds"])
def test_everything_matches_the_original(name: str, settings: str) -> None:
    golden = json.loads((GOLDEN / f"everything_{name}.json").read_text())[settings]
    image = golden_file(f"predictor_{name}")["image"].numpy()
    generator = SamAutomaticMaskGenerator(golden_sam(name), **golden["settings"])
    records = generator.generate(image)
    assert len(records) == len(golden["masks"])
    for record, expected in zip(records, golden["masks"], strict=True):
        assert record["point_coords"] == expected["point_coords"]
        assert record["crop_box"] == expected["crop_box"]
        ours, theirs = (
            coco.frPyObjects(r["segmentation"], *r["segmentation"]["size"])
            for r in (record, expected)
        )
        if coco.iou([ours], [theirs], [0])[0, 0] < 0.999:
            # A small mask may have a pixel whose sign is down to how a machine rounds.
            wrong = coco.decode(ours) != coco.decode(theirs)
            assert _nearest_logits(generator, image, record)[wrong].max() < 1e-5
        assert record["predicted_iou"] == pytest.approx(expected["predicted_iou"], abs=1e-2)


def _nearest_logits(
    generator: SamAutomaticMaskGenerator, image: np.ndarray, record: dict
) -> np.ndarray:
    """HxW: how near to zero any of the point's three masks is."""
    predictor = generator.predictor
    predictor.set_image(image)
    point = np.array(record["point_coords"])
    return np.abs(predictor.predict(point, np.ones(1), return_logits=True)[0]).min(axis=0)


def test_records_agree_with_their_masks(tiny_sam: Sam, photo: np.ndarray) -> None:
    generator = SamAutomaticMaskGenerator(
        tiny_sam, points_per_side=4, box_nms_thresh=0.9, **EVERY_MASK
    )
    records = generator.generate(photo)
    assert records
    for record in records:
        mask = record["segmentation"]
        assert (mask.shape, mask.dtype) == (photo.shape[:2], bool)
        assert record["area"] == mask.sum()
        y, x = mask.nonzero()
        if len(x):
            assert record["bbox"] == [x.min(), y.min(), np.ptp(x), np.ptp(y)]
        assert record["crop_box"] == [0, 0, photo.shape[1], photo.shape[0]]
    json.dumps([{k: v for k, v in record.items() if k != "segmentation"} for record in records])


def test_output_modes_hold_the_same_masks(tiny_sam: Sam, photo: np.ndarray) -> None:
    masks = {}
    for mode in ("binary_mask", "uncompressed_rle", "coco_rle"):
        generator = SamAutomaticMaskGenerator(
            tiny_sam, points_per_side=3, output_mode=mode, **EVERY_MASK
        )
        masks[mode] = [record["segmentation"] for record in generator.generate(photo)]
    assert len(masks["binary_mask"]) == len(masks["coco_rle"]) == len(masks["uncompressed_rle"])
    for binary, runs, compressed in zip(*masks.values(), strict=True):
        json.dumps([compressed, runs])
        np.testing.assert_array_equal(coco.decode(compressed), binary)
        np.testing.assert_array_equal(coco.decode(coco.frPyObjects(runs, *runs["size"])), binary)


def test_the_batch_size_does_not_matter(tiny_sam: Sam, photo: np.ndarray) -> None:
    results = [
        SamAutomaticMaskGenerator(
            tiny_sam, points_per_side=4, points_per_batch=batch, **EVERY_MASK
        ).generate(photo)
        for batch in (1, 5, 64)
    ]
    assert len({len(result) for result in results}) == 1
    for records in zip(*results, strict=True):
        areas = [record["area"] for record in records]
        assert max(areas) - min(areas) <= 0.001 * photo.shape[0] * photo.shape[1]


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (3, 2)])
def test_images_of_extreme_shape(tiny_sam: Sam, shape: tuple[int, int]) -> None:
    generator = SamAutomaticMaskGenerator(
        tiny_sam, points_per_side=2, crop_n_layers=2, **EVERY_MASK
    )
    for record in generator.generate(np.full((*shape, 3), 90, np.uint8)):
        assert record["segmentation"].shape == shape


@pytest.mark.parametrize("crop_n_layers", [0, 1])
def test_no_masks_is_an_empty_list(tiny_sam: Sam, photo: np.ndarray, crop_n_layers: int) -> None:
    generator = SamAutomaticMaskGenerator(
        tiny_sam,
        points_per_side=2,
        pred_iou_thresh=1e9,
        crop_n_layers=crop_n_layers,
        min_mask_region_area=10,
    )
    assert generator.generate(photo) == []


def test_own_points_and_progress(tiny_sam: Sam, photo: np.ndarray) -> None:
    points = np.array([[0.25, 0.5], [0.75, 0.5], [0.5, 0.1]])
    generator = SamAutomaticMaskGenerator(
        tiny_sam,
        points_per_side=None,
        point_grids=[points, points[:1]],
        points_per_batch=2,
        crop_n_layers=1,
        **EVERY_MASK,
    )
    steps: list[tuple[int, int]] = []
    records = generator.generate(photo, on_progress=lambda done, total: steps.append((done, total)))
    assert steps == [(2, 7), (3, 7), (4, 7), (5, 7), (6, 7), (7, 7)]
    whole = [r for r in records if r["crop_box"][2:] == [221, 150]]
    asked = {tuple(r["point_coords"][0]) for r in whole}
    assert asked <= {(0.25 * 221, 75.0), (0.75 * 221, 75.0), (0.5 * 221, 15.0)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"points_per_side": None}, "exactly one of points_per_side and point_grids"),
        ({"point_grids": [np.zeros((1, 2))]}, "exactly one of points_per_side and point_grids"),
        (
            {"points_per_side": None, "point_grids": [np.zeros((1, 2))], "crop_n_layers": 1},
            "for each of 1 layers of crops",
        ),
        ({"points_per_side": None, "point_grids": [np.zeros((0, 2))]}, "must hold points"),
        ({"points_per_side": 0}, "points_per_side is 0"),
        ({"points_per_batch": 0}, "points_per_batch is 0"),
        ({"output_mode": "png"}, "'png'; it must be one of binary_mask"),
        ({"box_nms_thresh": float("nan")}, "box_nms_thresh is nan"),
        ({"crop_nms_thresh": -0.1}, "crop_nms_thresh is -0.1"),
    ],
)
def test_bad_arguments_are_refused(tiny_sam: Sam, arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SamAutomaticMaskGenerator(tiny_sam, **arguments)


class LeftHalf(Scaler):
    """Answers every point with the left half of the crop, and counts the points of each crop.

    Not to its edges: masks that a crop cuts off are dropped.
    """

    def __init__(self) -> None:
        super().__init__(256)
        self.asked: list[int] = []

    def set_images(self, images, image_format="RGB"):
        for image in super().set_images(images, image_format):
            self.asked.append(0)
            yield image

    def ask_each(self, points, least_iou):
        self.asked[-1] += len(points)
        logits = np.full((len(points), 64, 64), -8, np.float32)
        logits[:, 4 : self.input_size[0] // 4 - 4, 5:32] = 8
        return logits, np.ones(len(points), np.float32), np.arange(len(points))


def test_points_in_masks_that_are_small_enough_are_skipped() -> None:
    asked, image = {}, np.zeros((600, 900, 3), np.uint8)
    for share in (0.0, 0.3, 0.6):
        predictor = LeftHalf()
        settings = {"points_per_side": 4, "crop_n_layers": 1, "skip_covered": share}
        records = PassGenerator(predictor, **settings).generate(image)
        assert len(records) == 5  # the left half of the image and of each crop
        asked[share] = predictor.asked
    # The first 4 of 16 points, and of the other 12 those in the right half.
    assert asked == {0.0: [16] * 5, 0.3: [16] * 5, 0.6: [10] * 5}


def test_points_skipped_after_the_last_one_asked_count_as_done() -> None:
    class Everywhere(LeftHalf):
        def ask_each(self, points, least_iou):
            _, iou, numbers = super().ask_each(points, least_iou)
            return np.full((len(points), 64, 64), 8, np.float32), iou, numbers

    steps: list[tuple[int, int]] = []
    generator = PassGenerator(Everywhere(), points_per_side=4, skip_covered=1.0)
    generator.generate(np.zeros((60, 90, 3), np.uint8), lambda *step: steps.append(step))
    assert steps == [(4, 16), (16, 16)]


def test_of_small_regions_duplicates_the_untouched_mask_stays() -> None:
    whole = np.zeros((2, 40, 60), bool)
    whole[:, 5:30, 10:50] = True
    whole[0, 12:14, 20:22] = False  # a hole
    boxes = np.array([[10, 5, 49, 29]] * 2)
    data = MaskData(rles=encode_masks(whole), boxes=boxes, points=np.array([[1, 2], [3, 4]]))
    kept = SamAutomaticMaskGenerator.postprocess_small_regions(data, 10, 0.7)
    assert kept["points"].tolist() == [[3, 4]]
    alone = MaskData(rles=encode_masks(whole[:1]), boxes=boxes[:1])
    SamAutomaticMaskGenerator.postprocess_small_regions(alone, 10, 0.7)
    np.testing.assert_array_equal(decode_mask(alone["rles"][0]), whole[1])


def test_small_regions_have_the_higher_of_both_thresholds(
    tiny_sam: Sam, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = SamAutomaticMaskGenerator(
        tiny_sam, 2, min_mask_region_area=5, box_nms_thresh=0.3, crop_nms_thresh=0.9, **EVERY_MASK
    )
    given: list[float] = []

    def spy(data: MaskData, min_area: int, nms_thresh: float) -> MaskData:
        given.extend((min_area, nms_thresh))
        return data

    monkeypatch.setattr(generator, "postprocess_small_regions", spy)
    generator.generate(photo)
    assert given == [5, 0.9]


def test_a_run_that_was_stopped_forgets_the_image(tiny_sam: Sam, photo: np.ndarray) -> None:
    generator = SamAutomaticMaskGenerator(tiny_sam, 2, **EVERY_MASK)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generator.generate(photo, stop)
    assert not generator.predictor.is_image_set


def test_thresholds_of_another_network_are_warned_of(tiny_sam: Sam, photo: np.ndarray) -> None:
    tiny_sam.mask_decoder.iou_prediction_head.layers[-1].bias.data.fill_(-9)
    with pytest.warns(UserWarning, match=r"pass \*\*RECOMMENDED\['vit_s'\]"):
        assert SamAutomaticMaskGenerator(tiny_sam, 2).generate(photo) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SamAutomaticMaskGenerator(tiny_sam, 2, pred_iou_thresh=0.5).generate(photo)
