"""Segment everything: masks of all that a grid of points finds in an image."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from expedit_sam.base_predictor import BasePredictor, check_image
from expedit_sam.errors import InputError
from expedit_sam.everything import rle
from expedit_sam.everything.filters import (
    box_xyxy_to_xywh,
    suppress_duplicates,
    uncrop_boxes_xyxy,
    uncrop_points,
)
from expedit_sam.everything.full_size import MaskMaker
from expedit_sam.everything.mask_data import MaskData
from expedit_sam.everything.point_queue import PointQueue
from expedit_sam.everything.prompts import generate_crop_boxes, point_grids_of_layers
from expedit_sam.everything.regions import clear_small_regions

OUTPUT_MODES = ("binary_mask", "uncompressed_rle", "coco_rle")
# SAM's thresholds of predicted IoU and stability score, and the size of its low-res logits.
_THRESHOLDS, _LOW_RES_SIZE = (0.88, 0.95), (256, 256)
# More threads gain little: a part of the work on a mask waits for that on the others.
_MASKS_AT_ONCE = min(os.cpu_count() or 1, 4)

Progress = Callable[[int, int], None]  # called with the points done and all points


class SamAutomaticMaskGenerator:
    """Asks a grid of points, one by one, and keeps the masks that are good and distinct.

    Source: Segment Anything, appendix B. Defaults are the original's, chosen for ViT-H.

    Arguments:
        model: the network.
        points_per_side: points along each side of the image; None where ``point_grids`` is given.
        points_per_batch: points decoded together.
        pred_iou_thresh: masks of a lower predicted IoU are dropped (0 to 1).
        stability_score_thresh: masks of a lower stability score are dropped (0 to 1).
        stability_score_offset: shift of the threshold that the stability score is measured with.
        box_nms_thresh: box IoU above which the lower of two masks is a duplicate.
        crop_n_layers: layers of crops that are segmented too; layer i has 2**i x 2**i crops.
        crop_nms_thresh: as ``box_nms_thresh``, between crops.
        crop_overlap_ratio: overlap of crops over the image's shorter side.
        crop_n_points_downscale_factor: points a side shrink by this factor with each layer.
        point_grids: one Nx2 array of points in [0, 1] a layer, instead of ``points_per_side``.
        min_mask_region_area: holes and islands of fewer pixels are removed; 0 for none.
        output_mode: "binary_mask", "uncompressed_rle" or "coco_rle".
        skip_covered: not the original's: ask every second point of every second row first, and of
            the others only those that no mask covers yet. Masks of more than this share of the crop
            (0 to 1) do not count. 0 asks all points.

    Raises:
        InputError: an argument is missing or unknown; the message says which.
    """

    skip_covered = 0.0  # for subclasses that do not call __init__

    def __init__(
        self,
        model: Any,
        points_per_side: int | None = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = _THRESHOLDS[0],
        stability_score_thresh: float = _THRESHOLDS[1],
        stability_score_offset: float = 1.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        point_grids: list[np.ndarray] | None = None,
        min_mask_region_area: int = 0,
        output_mode: str = "binary_mask",
        skip_covered: float = 0.0,
    ) -> None:
        self.point_grids = point_grids_of_layers(
            points_per_side, point_grids, crop_n_layers, crop_n_points_downscale_factor
        )
        if points_per_batch < 1:
            raise InputError(f"points_per_batch is {points_per_batch}; it must be 1 or more")
        for name, threshold in {
            "box_nms_thresh": box_nms_thresh,
            "crop_nms_thresh": crop_nms_thresh,
        }.items():
            if not threshold >= 0:  # nor NaN
                raise InputError(f"{name} is {threshold}; it must be 0 or more, an IoU")
        if not 0 <= skip_covered <= 1:
            raise InputError(
                f"skip_covered is {skip_covered}; it must be 0 to 1, a share of a crop"
            )
        if output_mode not in OUTPUT_MODES:
            raise InputError(
                f"output_mode is {output_mode!r}; it must be one of {', '.join(OUTPUT_MODES)}"
            )
        self.predictor = self._new_predictor(model)
        self.points_per_batch = points_per_batch
        self.pred_iou_thresh = pred_iou_thresh
        self.stability_score_thresh = stability_score_thresh
        self.stability_score_offset = stability_score_offset
        self.box_nms_thresh = box_nms_thresh
        self.crop_n_layers = crop_n_layers
        self.crop_nms_thresh = crop_nms_thresh
        self.crop_overlap_ratio = crop_overlap_ratio
        self.crop_n_points_downscale_factor = crop_n_points_downscale_factor
        self.min_mask_region_area = min_mask_region_area
        self.output_mode = output_mode
        self.skip_covered = skip_covered

    @staticmethod
    def _new_predictor(model: Any) -> BasePredictor:
        from expedit_sam.predictor import SamPredictor  # other predictors do without PyTorch

        return SamPredictor(model)

    def generate(
        self, image: np.ndarray, on_progress: Progress | None = None
    ) -> list[dict[str, Any]]:
        """Find the masks of an image.

        Arguments:
            image: HxWx3 uint8, RGB.
            on_progress: called after each batch of points with the points done and all points.

        Returns:
            one dict a mask: ``segmentation`` (HxW booleans or RLE, see ``output_mode``), ``area``
            (pixels), ``bbox`` (x, y, width, height), ``predicted_iou``, ``stability_score``,
            ``point_coords`` (the point asked, [[x, y]]) and ``crop_box`` (x, y, width, height).
            An empty list where nothing is found.

        Raises:
            InputError: the array is no such image.
        """
        check_image(image)
        # A subclass's method may be as the original's, which takes the image alone.
        more = () if on_progress is None else (on_progress,)
        data = self._generate_masks(image, *more)
        if self.min_mask_region_area > 0:
            data = self.postprocess_small_regions(
                data,
                self.min_mask_region_area,
                max(self.box_nms_thresh, self.crop_nms_thresh),
            )
        if not len(data["rles"]):
            self._warn_if_thresholds_are_of_another_network()
        return [self._record(data, i) for i in range(len(data["rles"]))]

    def _warn_if_thresholds_are_of_another_network(self) -> None:
        thresholds = (self.pred_iou_thresh, self.stability_score_thresh)
        if thresholds == _THRESHOLDS and self.predictor.mask_input_size != _LOW_RES_SIZE:
            warnings.warn(
                f"no mask passed SAM's thresholds, {thresholds}: for the embedded vit_s pass "
                "**RECOMMENDED['vit_s'] of expedit_sam.everything.recommended",
                stacklevel=3,
            )

    def _record(self, data: MaskData, index: int) -> dict[str, Any]:
        """A mask as ``generate`` returns it."""
        encoded = data["rles"][index]
        write = {
            "binary_mask": rle.decode_mask,
            "uncompressed_rle": rle.to_uncompressed,
            "coco_rle": rle.to_coco,
        }[self.output_mode]
        return {
            "segmentation": write(encoded),
            "area": rle.area(encoded),
            "bbox": box_xyxy_to_xywh(data["boxes"][index]).tolist(),
            "predicted_iou": data["iou_preds"][index].item(),
            "point_coords": [data["points"][index].tolist()],
            "stability_score": data["stability_score"][index].item(),
            "crop_box": box_xyxy_to_xywh(data["crop_boxes"][index]).tolist(),
        }

    def _generate_masks(
        self, image: np.ndarray, on_progress: Progress = lambda done, total: None
    ) -> MaskData:
        """The masks of all crops, without duplicates, in columns (see ``_masks_of_crop``)."""
        crop_boxes, layers = generate_crop_boxes(
            image.shape[:2], self.crop_n_layers, self.crop_overlap_ratio
        )
        # Some crops of an image of a few pixels are empty.
        crops = [
            (box, layer)
            for box, layer in zip(crop_boxes, layers, strict=True)
            if box[0] < box[2] and box[1] < box[3]
        ]
        total = sum(len(self.point_grids[layer]) for _, layer in crops)
        done = 0

        def advance(points: int) -> None:
            nonlocal done
            done += points
            on_progress(done, total)

        data = MaskData()
        parts = (image[y0:y1, x0:x1] for (x0, y0, x1, y1), _ in crops)
        size = image.shape[:2]
        ours = SamAutomaticMaskGenerator._process_crop
        try:
            if getattr(self._process_crop, "__func__", None) is ours:
                for _, (box, layer) in zip(self.predictor.set_images(parts), crops, strict=True):
                    data.cat(self._masks_of_crop(box, layer, size, advance))
            else:  # a subclass's method, which encodes the crop too, as the original's does
                for box, layer in crops:
                    data.cat(self._process_crop(image, box, layer, size))
                    advance(len(self.point_grids[layer]))
        finally:
            self.predictor.reset_image()
        if len(crops) > 1:
            # Between crops, the mask found in the smaller one is the more detailed.
            x0, y0, x1, y1 = data["crop_boxes"].T
            scores = 1 / ((x1 - x0) * (y1 - y0))
            data.filter(suppress_duplicates(data["boxes"], scores, self.crop_nms_thresh))
        data.to_numpy()
        return data

    def _process_crop(
        self,
        image: np.ndarray,
        crop_box: list[int],
        crop_layer_idx: int,
        orig_size: tuple[int, ...],
    ) -> MaskData:
        """Encode a crop and find its masks: subclasses of the original's override or call it."""
        x0, y0, x1, y1 = crop_box
        self.predictor.set_image(image[y0:y1, x0:x1])
        data = self._masks_of_crop(crop_box, crop_layer_idx, orig_size)
        self.predictor.reset_image()
        return data

    def _masks_of_crop(
        self,
        crop_box: list[int],
        layer: int,
        image_size: tuple[int, ...],
        advance: Callable[[int], None] = lambda points: None,
    ) -> MaskData:
        """The distinct masks of the crop that the predictor holds.

        Arguments:
            crop_box: (x0, y0, x1, y1) of the crop in the image.
            layer: of the crop: 0 is the whole image.
            image_size: (H, W) of the image.
            advance: see ``PointQueue``.

        Returns:
            columns ``iou_preds``, ``points``, ``stability_score``, ``boxes``, ``rles`` and
            ``crop_boxes``; points and boxes in pixels of the image.
        """
        x0, y0, x1, y1 = crop_box
        crop_size = (y1 - y0, x1 - x0)
        points_in_crop = self.point_grids[layer] * crop_size[::-1]
        data = MaskData()
        largest_area = self.skip_covered * math.prod(crop_size)
        queue = PointQueue(
            points_in_crop, self.points_per_batch, largest_area, (x0, y0), image_size, advance
        )
        for points in queue:
            found = self._process_batch(points, crop_size, crop_box, image_size)
            if largest_area > 0:
                queue.cover(found["rles"])
            data.cat(found)

        data.filter(suppress_duplicates(data["boxes"], data["iou_preds"], self.box_nms_thresh))
        data["boxes"] = uncrop_boxes_xyxy(data["boxes"], crop_box)
        data["points"] = uncrop_points(data["points"], crop_box)
        crop_boxes = np.array([crop_box] * len(data["rles"]), dtype=int).reshape(-1, 4)
        data["crop_boxes"] = array_namespace(data["boxes"]).asarray(crop_boxes)
        return data

    def _process_batch(
        self,
        points: np.ndarray,
        im_size: tuple[int, ...],
        crop_box: list[int],
        orig_size: tuple[int, ...],
    ) -> MaskData:
        """The masks of some points that pass the filters, run-length encoded.

        Arguments:
            points: Nx2 (x, y) in pixels of the crop that the predictor holds.
            im_size: (H, W) of the crop; unused, but subclasses of the original's have it.
            crop_box: (x0, y0, x1, y1) of the crop in the image.
            orig_size: (H, W) of the image.

        Returns:
            the columns of ``_masks_of_crop`` without ``crop_boxes``, in pixels of the crop.
        """
        x0, y0, x1, y1 = crop_box
        maker = MaskMaker(
            side=self.predictor.transform.target_length,
            input_size=self.predictor.input_size,
            crop_box=(x0, y0, x1, y1),
            image_size=(orig_size[0], orig_size[1]),
            threshold=self.predictor.mask_threshold,
            stability_offset=self.stability_score_offset,
            least_stability=self.stability_score_thresh,
        )
        least = self.pred_iou_thresh if self.pred_iou_thresh > 0.0 else -math.inf
        logits, iou, numbers = self.predictor.ask_each(points, least)
        with ThreadPoolExecutor(_MASKS_AT_ONCE) as threads:
            made = list(threads.map(maker.make, logits))
        kept = [i for i, mask in enumerate(made) if mask is not None]
        masks = [mask for mask in made if mask is not None]
        return MaskData(
            iou_preds=iou[kept],
            points=points[numbers[kept]],
            stability_score=np.array([mask.stability for mask in masks], np.float32),
            boxes=np.array([mask.box for mask in masks], int).reshape(-1, 4),
            rles=[mask.rle for mask in masks],
        )

    postprocess_small_regions = staticmethod(clear_small_regions)
