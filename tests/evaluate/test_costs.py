from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from expedit_sam import Hourglass
from expedit_sam.evaluate import costs
from expedit_sam.evaluate.costs import encoder_cost
from expedit_sam.model.sam import Sam


def test_as_much_as_a_real_image_costs(tiny_sam: Sam) -> None:
    encoder = tiny_sam.image_encoder
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=costs._IN_PLACE) as counter:
        encoder(torch.zeros(1, 3, 320, 320))
    cost = encoder_cost(encoder, None)
    # The real image takes windows band by band, which changes nothing here.
    assert cost.multiply_adds == counter.get_total_flops() // 2
    assert cost.tokens == [400] * 4


def test_every_product_counts(tiny_sam: Sam) -> None:
    tokens, padded, window, channels = 20 * 20, 28 * 28, 14 * 14, 32
    patches = tokens * channels * 3 * 16 * 16
    linear = 12 * tokens * channels * channels
    in_windows = padded * channels * (2 * window + 2 * 27)  # keys and values, relative positions
    everywhere = tokens * channels * (2 * tokens + 2 * 39)
    neck = tokens * channels * (32 + 9 * 32)
    cost = encoder_cost(tiny_sam.image_encoder, None)
    assert cost.multiply_adds == patches + 4 * linear + 2 * in_windows + 2 * everywhere + neck


def test_a_setting_costs_less_and_is_not_kept(tiny_sam: Sam) -> None:
    encoder = tiny_sam.image_encoder
    cost = encoder_cost(encoder, Hourglass(location=2, clusters=49))
    assert cost.tokens == [400, 400, 100, 100]
    assert cost.multiply_adds < encoder_cost(encoder, None).multiply_adds
    assert encoder.hourglass is None
    assert encoder(torch.zeros(1, 3, 320, 320)).shape == (1, 32, 20, 20)
