"""SAM at its full resolution beside an independent implementation with the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from expedit_sam.model.architectures import Architecture, new_sam
from expedit_sam.weights.transformers_format import to_transformers
from tests.conftest import randomized

POINTS = torch.tensor([[[200.0, 300.0], [700.0, 650.0]]])
LABELS = torch.tensor([[1, 0]])
BOX = torch.tensor([[150.0, 100.0, 800.0, 900.0]])


@pytest.mark.slow
@torch.no_grad()
def test_equals_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    ours = randomized(new_sam(Architecture(192, 3, 3, global_attn_indexes=(1,))))
    vision = {
        "hidden_size": 192,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "global_attn_indexes": [1],
    }
    theirs = transformers.SamModel(transformers.SamConfig(vision_config=vision)).eval()
    theirs.load_state_dict(to_transformers(ours.state_dict()))

    pixels = torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(0))
    embedding = ours.image_encoder(pixels)
    _assert_close(embedding, theirs.get_image_embeddings(pixels))

    low_res = torch.randn(1, 1, 256, 256, generator=torch.Generator().manual_seed(1))
    for points, boxes, masks in (
        ((POINTS, LABELS), None, None),
        (None, BOX, None),
        ((POINTS, LABELS), BOX, None),
        (None, BOX, low_res),
    ):
        for multimask in (True, False):
            sparse, dense = ours.prompt_encoder(points, boxes, masks)
            logits, iou = ours.mask_decoder(
                embedding, ours.prompt_encoder.get_dense_pe(), sparse, dense, multimask
            )
            expected = theirs(
                image_embeddings=embedding,
                input_points=None if points is None else points[0][None],
                input_labels=None if points is None else points[1][None],
                input_boxes=None if boxes is None else boxes[None],
                input_masks=masks,
                multimask_output=multimask,
            )
            _assert_close(logits, expected.pred_masks[:, 0])
            # One number may be near 0; predicted IoU is on a scale of 1.
            torch.testing.assert_close(iou, expected.iou_scores[:, 0], rtol=0, atol=1e-5)


def _assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * theirs.abs().max().item())
