"""Segment everything: masks of all that a grid of points finds in an image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expedit_sam.errors import InputError
from expedit_sam.everything import rle
from expedit_sam.everything.filters import (
    batched_mask_to_box,
    box_xyxy_to_xywh,
    calculate_stability_score,
    is_box_near_crop_edge,
    suppress_duplicates,
    uncrop_boxes_xyxy,
    uncrop_masks,
    uncrop_points,
)
from expedit_sam.everything.mask_data import MaskData
from expedit_sam.everything.prompts import (
    batch_iterator,
    build_all_layer_point_grids,
    generate_crop_boxes,
)
from expedit_sam.everything.regions import remove_small_regions
from expedit_sam.model.sam import Sam
from expedit_sam.predictor import SamPredictor, check_image

OUTPUT_MODES = ("binary_mask", "uncompressed_rle", "coco_rle")

# Masks are upscaled a few at a time: one of a 12-megapixel photograph takes 48 MB.
_PIXELS_PER_STEP = 2**24

Progress = Callable[[int, int], None]


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

    Raises:
        InputError: an argument is missing or unknown; the message says which.
    """

    def __init__(
        self,
        model: Sam,
        points_per_side: int | None = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        point_grids: list[np.ndarray] | None = None,
        min_mask_region_area: int = 0,
        output_mode: str = "binary_mask",
    ) -> None:
        if (points_per_side is None) == (point_grids is None):
            raise InputError("give exactly one of points_per_side and point_grids")
        if points_per_side is not None and points_per_side < 1:
            raise InputError(f"points_per_side is {points_per_side}; it must be 1 or more")
        if points_per_batch < 1:
            raise InputError(f"points_per_batch is {points_per_batch}; it must be 1 or more")
        if output_mode not in OUTPUT_MODES:
            raise InputError(
                f"output_mode is {output_mode!r}; it must be one of {', '.join(OUTPUT_MODES)}"
            )
        if points_per_side is not None:
            point_grids = build_all_layer_point_grids(
                points_per_side, crop_n_layers, crop_n_points_downscale_factor
            )
        self.point_grids = point_grids or []
        self.predictor = SamPredictor(model)
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

    @torch.no_grad()
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
        data = self._generate_masks(image, on_progress or (lambda done, total: None))
        if self.min_mask_region_area > 0:
            data = self.postprocess_small_regions(
                data,
                self.min_mask_region_area,
                max(self.box_nms_thresh, self.crop_nms_thresh),
            )
        data.to_numpy()
        return [self._record(data, i) for i in range(len(data["rles"]))]

    def _record(self, data: MaskData, index: int) -> dict[str, Any]:
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

    def _generate_masks(self, image: np.ndarray, on_progress: Progress) -> MaskData:
        crop_boxes, layers = generate_crop_boxes(
            image.shape[:2], self.crop_n_layers, self.crop_overlap_ratio
        )
        # An image of a few pixels has crops without any.
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
        for crop_box, layer in crops:
            data.cat(self._process_crop(image, crop_box, self.point_grids[layer], advance))
        if len(crops) > 1:
            # Between crops, the mask found in the smaller one is the more detailed.
            x0, y0, x1, y1 = data["crop_boxes"].unbind(1)
            scores = 1 / ((x1 - x0) * (y1 - y0))
            data.filter(suppress_duplicates(data["boxes"], scores, self.crop_nms_thresh))
        return data

    def _process_crop(
        self,
        image: np.ndarray,
        crop_box: list[int],
        grid: np.ndarray,
        advance: Callable[[int], None],
    ) -> MaskData:
        x0, y0, x1, y1 = crop_box
        self.predictor.set_image(image[y0:y1, x0:x1])
        points_in_crop = grid * (x1 - x0, y1 - y0)
        data = MaskData()
        for (points,) in batch_iterator(self.points_per_batch, points_in_crop):
            data.cat(self._process_batch(points, crop_box, image.shape[:2]))
            advance(len(points))
        self.predictor.reset_image()

        data.filter(suppress_duplicates(data["boxes"], data["iou_preds"], self.box_nms_thresh))
        data["boxes"] = uncrop_boxes_xyxy(data["boxes"], crop_box)
        data["points"] = uncrop_points(data["points"], crop_box)
        data["crop_boxes"] = torch.tensor([crop_box] * len(data["rles"])).reshape(-1, 4)
        return data

    def _process_batch(
        self, points: np.ndarray, crop_box: list[int], image_size: tuple[int, ...]
    ) -> MaskData:
        """The masks of some points of a crop that pass the filters, run-length encoded."""
        candidates = self._ask(points)
        if self.pred_iou_thresh > 0.0:
            # Before upscaling: most of the masks end here.
            candidates.filter(candidates["iou_preds"] > self.pred_iou_thresh)
        number = len(candidates["iou_preds"])
        height, width = self.predictor.original_size
        step = max(1, _PIXELS_PER_STEP // (height * width))
        data = MaskData()
        for start in range(0, max(1, number), step):
            some = {name: column[start : start + step] for name, column in candidates.items()}
            data.cat(self._keep_stable(MaskData(**some), crop_box, image_size))
        return data

    def _keep_stable(
        self, data: MaskData, crop_box: list[int], image_size: tuple[int, ...]
    ) -> MaskData:
        """Candidates with low-res logits to masks of the image's size, those worth keeping."""
        height, width = image_size
        model = self.predictor.model
        masks = model.postprocess_masks(
            data["logits"][:, None], self.predictor.input_size, self.predictor.original_size
        )[:, 0]
        del data["logits"]
        data["stability_score"] = calculate_stability_score(
            masks, model.mask_threshold, self.stability_score_offset
        )
        data["masks"] = masks > model.mask_threshold
        if self.stability_score_thresh > 0.0:
            data.filter(data["stability_score"] >= self.stability_score_thresh)
        data["boxes"] = batched_mask_to_box(data["masks"])
        data.filter(~is_box_near_crop_edge(data["boxes"], crop_box, [0, 0, width, height]))
        data["rles"] = rle.encode_masks(uncrop_masks(data["masks"], crop_box, height, width))
        del data["masks"]
        return data

    def _ask(self, points: np.ndarray) -> MaskData:
        """Low-res logits and predicted IoU of the three masks of each point."""
        device = self.predictor.device
        scaled = self.predictor.transform.apply_coords(points, self.predictor.original_size)
        coords = torch.as_tensor(scaled, dtype=torch.float, device=device)[:, None]
        labels = torch.ones(coords.shape[:2], dtype=torch.int, device=device)
        logits, iou = self.predictor.predict_low_res(coords, labels)
        return MaskData(
            logits=logits.flatten(0, 1),
            iou_preds=iou.flatten(0, 1),
            points=torch.as_tensor(points.repeat(logits.shape[1], axis=0)),
        )

    @staticmethod
    def postprocess_small_regions(
        mask_data: MaskData, min_area: int, nms_thresh: float
    ) -> MaskData:
        """Remove small holes and islands, then the duplicates that appear.

        Arguments:
            mask_data: columns ``rles`` and ``boxes`` among others; changed in place.
            min_area: regions of fewer pixels are small.
            nms_thresh: box IoU above which one of two masks is a duplicate; unchanged masks win.
        """
        if len(mask_data["rles"]) == 0:
            return mask_data
        masks: list[Tensor] = []
        unchanged: list[bool] = []
        for encoded in mask_data["rles"]:
            mask, filled = remove_small_regions(rle.decode_mask(encoded), min_area, mode="holes")
            mask, cleared = remove_small_regions(mask, min_area, mode="islands")
            masks.append(torch.as_tensor(mask))
            unchanged.append(not (filled or cleared))
        boxes = torch.stack([batched_mask_to_box(mask) for mask in masks])
        for i in range(len(masks)):
            if not unchanged[i]:
                mask_data["rles"][i] = rle.encode_masks(masks[i][None])[0]
                mask_data["boxes"][i] = boxes[i]
        scores = torch.tensor(unchanged, dtype=torch.float)
        mask_data.filter(suppress_duplicates(boxes, scores, nms_thresh))
        return mask_data
