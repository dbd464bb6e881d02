from __future__ import annotations

import torch
from torch.nn import functional as F

from expedit_sam.model.sam import Sam
from expedit_sam.predictor import SamPredictor


def test_postprocessing_equals_two_bilinear_resizings(tiny_sam: Sam) -> None:
    logits = torch.randn(2, 3, 80, 80)
    expected = F.interpolate(logits, (320, 320), mode="bilinear", align_corners=False)
    expected = F.interpolate(
        expected[..., :217, :320], (150, 221), mode="bilinear", align_corners=False
    )
    masks = tiny_sam.postprocess_masks(logits, (217, 320), (150, 221))
    torch.testing.assert_close(masks, expected, rtol=1e-4, atol=5e-5)


def test_forward_equals_the_predictor(tiny_sam: Sam, photo) -> None:
    predictor = SamPredictor(tiny_sam)
    predictor.set_image(photo)
    points = torch.tensor([[[30.0, 40.0]], [[200.0, 100.0]]])
    labels = torch.ones(2, 1, dtype=torch.int)
    masks, iou, logits = predictor.predict_torch(points, labels)

    resized = torch.as_tensor(predictor.transform.apply_image(photo)).permute(2, 0, 1)
    record = {
        "image": resized,
        "original_size": photo.shape[:2],
        "point_coords": points,
        "point_labels": labels,
    }
    without_prompt = {"image": resized, "original_size": photo.shape[:2]}
    output, empty = tiny_sam([record, without_prompt], multimask_output=True)
    torch.testing.assert_close(output["low_res_logits"], logits, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(output["iou_predictions"], iou, rtol=1e-3, atol=1e-3)
    assert (output["masks"] == masks).float().mean() > 0.999
    assert empty["masks"].shape == (1, 3, 150, 221)


def test_reduced_precision_works_and_trains(tiny_sam: Sam) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embedding = tiny_sam.image_encoder(torch.randn(1, 3, 320, 320))
        prompts = (torch.rand(3, 2, 2) * 320, torch.ones(3, 2))
        sparse, dense = tiny_sam.prompt_encoder(prompts, None, None)
        positions = tiny_sam.prompt_encoder.get_dense_pe()
        masks, iou = tiny_sam.mask_decoder(embedding, positions, sparse, dense, True)
    (masks.float().mean() + iou.float().mean()).backward()
    for name, parameter in tiny_sam.named_parameters():
        if name.startswith(("image_encoder", "mask_decoder.transformer")):
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
