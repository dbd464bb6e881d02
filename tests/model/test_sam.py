from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from expedit_sam.model.sam import Sam, _resampling_matrix
from expedit_sam.predictor import SamPredictor


@settings(max_examples=40, deadline=None)
@given(low=st.integers(1, 40), inside=st.integers(1, 160), original=st.integers(1, 400))
def test_one_matrix_does_both_resizings(low: int, inside: int, original: int) -> None:
    signal = torch.randn(1, 1, low, generator=torch.Generator().manual_seed(0))
    upscaled = F.interpolate(signal, size=160, mode="linear", align_corners=False)
    expected = F.interpolate(
        upscaled[..., :inside], size=original, mode="linear", align_corners=False
    )
    matrix = _resampling_matrix(low, 160, inside, original)
    torch.testing.assert_close(matrix @ signal[0, 0], expected[0, 0], rtol=1e-4, atol=1e-5)


def test_postprocessing_equals_two_bilinear_resizings(tiny_sam: Sam) -> None:
    logits = torch.randn(2, 3, 80, 80)
    expected = F.interpolate(logits, (320, 320), mode="bilinear", align_corners=False)
    expected = F.interpolate(
        expected[..., :217, :320], (150, 221), mode="bilinear", align_corners=False
    )
    masks = tiny_sam.postprocess_masks(logits, (217, 320), (150, 221))
    torch.testing.assert_close(masks, expected, rtol=1e-4, atol=1e-5)


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
