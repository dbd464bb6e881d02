from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expedit_sam.model.image_tokens import OwnTokens
from expedit_sam.model.layers import LogitFilter
from expedit_sam.model.sam import Sam
from expedit_sam.model.shared_image import SharedImage
from expedit_sam.model.two_way_transformer import Attention, TwoWayTransformer


def attention() -> Attention:
    torch.manual_seed(0)
    layer = Attention(32, 4, downsample_rate=2).requires_grad_(False)
    for projection in (layer.q_proj, layer.k_proj, layer.v_proj, layer.out_proj):
        nn.init.normal_(projection.bias)
    return layer


def test_reading_and_writing_own_tokens_is_plain_attention() -> None:
    layer, norm = attention(), nn.LayerNorm(32)
    tokens, values = torch.randn(2, 5, 7, 32)
    image, positions = torch.randn(5, 50, 32), torch.randn(1, 50, 32)
    own = OwnTokens(image, positions)
    expected = layer(tokens, image + positions, image)
    torch.testing.assert_close(own.read(layer, tokens), expected, rtol=1e-4, atol=1e-4)
    written = own.write(layer, norm, k=tokens, v=values)
    expected = norm(image + layer(image + positions, tokens, values))
    torch.testing.assert_close(written.values, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("prompts", [1, 5])
def test_tokens_of_a_shared_image_are_what_they_would_be_of_its_own(depth, prompts) -> None:
    torch.manual_seed(0)
    transformer = TwoWayTransformer(depth, 32, 4, 64)
    for parameter in transformer.parameters():
        nn.init.normal_(parameter, std=0.3)
    image, positions = torch.randn(2, 1, 50, 32)
    embedding = torch.randn(prompts, 7, 32)
    weight, bias, wanted = torch.randn(48, 32), torch.randn(48), [0, 2, 3]
    own, own_image = transformer.attend(OwnTokens(image, positions), embedding, wanted)
    shared = SharedImage(transformer, image, positions, weight).tokens()
    tokens, shared_image = transformer.attend(shared, embedding, wanted)
    assert tokens.shape == (prompts, 3, 32)
    torch.testing.assert_close(tokens, own, rtol=1e-4, atol=1e-4)
    some = slice(prompts // 2, prompts)
    for where in (slice(None), slice(20), torch.tensor([0, 1, 30, 49])):
        outputs = shared_image.project(weight, bias, some, where)
        expected = own_image.project(weight, bias, slice(None), slice(None))[some, where]
        torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=2e-4)


def test_prompts_may_have_positions_of_their_own() -> None:
    torch.manual_seed(0)
    transformer = TwoWayTransformer(2, 32, 4, 64).requires_grad_(False)
    image, positions, tokens = (
        torch.randn(3, 32, 4, 5),
        torch.randn(3, 32, 4, 5),
        torch.randn(3, 7, 32),
    )
    together = transformer(image, positions, tokens)
    for i in range(3):
        one = transformer(image[i][None], positions[i][None], tokens[i][None])
        for all_of_them, alone in zip(together, one, strict=True):
            torch.testing.assert_close(all_of_them[i][None], alone)


def prompts(sam: Sam, number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    points = torch.rand(number, 2, 2, generator=generator) * 320
    labels = torch.randint(0, 2, (number, 2), generator=generator)
    return sam.prompt_encoder((points, labels), None, None)


@torch.no_grad()
def test_a_prompt_does_not_depend_on_those_beside_it(tiny_sam: Sam) -> None:
    image = torch.randn(1, 32, 20, 20)
    positions = tiny_sam.prompt_encoder.get_dense_pe()
    sparse, dense = prompts(tiny_sam, 12)
    masks, iou = tiny_sam.mask_decoder(image, positions, sparse, dense, multimask_output=True)
    assert masks.shape == (12, 3, 80, 80)
    assert iou.shape == (12, 3)
    for i in range(12):
        one, one_iou = tiny_sam.mask_decoder(
            image, positions, sparse[i : i + 1], dense[i : i + 1], multimask_output=True
        )
        torch.testing.assert_close(one, masks[i : i + 1], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(one_iou, iou[i : i + 1], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_single_and_multiple_masks_are_those_of_predict_masks(tiny_sam: Sam) -> None:
    arguments = (
        torch.randn(1, 32, 20, 20),
        tiny_sam.prompt_encoder.get_dense_pe(),
        *prompts(tiny_sam, 2),
    )
    every, every_iou = tiny_sam.mask_decoder.predict_masks(*arguments)
    single, single_iou = tiny_sam.mask_decoder(*arguments, multimask_output=False)
    several, several_iou = tiny_sam.mask_decoder(*arguments, multimask_output=True)
    torch.testing.assert_close(torch.cat([single, several], dim=1), every)
    torch.testing.assert_close(torch.cat([single_iou, several_iou], dim=1), every_iou)


@torch.no_grad()
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_confident_masks_are_those_above_the_threshold(tiny_sam: Sam, share: float) -> None:
    image, positions = torch.randn(1, 32, 20, 20), tiny_sam.prompt_encoder.get_dense_pe()
    sparse, dense = prompts(tiny_sam, 19)
    masks, iou = tiny_sam.mask_decoder(image, positions, sparse, dense, multimask_output=True)
    prepared = tiny_sam.mask_decoder.prepare(image, positions, dense)
    least = iou.min().item() - 1 if share == 0 else iou.quantile(share).item()
    logits, scores, numbers = tiny_sam.mask_decoder.predict_confident(prepared, sparse, least)
    passing = iou > least
    torch.testing.assert_close(scores, iou[passing])
    torch.testing.assert_close(logits, masks[passing])
    assert numbers.tolist() == passing.nonzero()[:, 0].tolist()


@torch.no_grad()
@pytest.mark.parametrize("filter_size", [0, 5])
@pytest.mark.parametrize("seen", [(80, 80), (53, 80), (80, 53), (1, 17)])
def test_logits_of_padding_need_not_be_made(tiny_sam: Sam, filter_size, seen) -> None:
    image, positions = torch.randn(1, 32, 20, 20), tiny_sam.prompt_encoder.get_dense_pe()
    sparse, dense = prompts(tiny_sam, 6)
    decoder = tiny_sam.mask_decoder
    decoder.logit_filter = LogitFilter(filter_size) if filter_size else None
    prepared = decoder.prepare(image, positions, dense)
    every, iou, numbers = decoder.predict_confident(prepared, sparse, -100.0)
    some, *same = decoder.predict_confident(prepared, sparse, -100.0, seen)
    assert some.shape == every.shape == (18, 80, 80)
    rows, columns = seen
    torch.testing.assert_close(some[:, :rows, :columns], every[:, :rows, :columns])
    # A token more than the filter reaches is spared.
    assert not some[:, rows + 6 :].any()
    assert not some[..., columns + 6 :].any()
    for expected, found in zip((iou, numbers), same, strict=True):
        torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_a_filter_is_a_separable_convolution_that_starts_as_a_blur() -> None:
    layer, logits = LogitFilter(5), torch.randn(2, 3, 12, 9)
    torch.testing.assert_close(layer(torch.ones_like(logits)), torch.ones_like(logits))
    assert layer(logits).var() < logits.var() / 4
    layer.down.copy_(torch.randn(5))
    layer.offset.fill_(0.3)
    padded = F.pad(logits, (2, 2, 2, 2), mode="replicate").flatten(0, 1)[:, None]
    expected = F.conv2d(padded, torch.outer(layer.down, layer.across)[None, None])
    torch.testing.assert_close(layer(logits), expected.view_as(logits) + 0.3)


@torch.no_grad()
def test_logits_pass_the_filter_last(tiny_sam: Sam) -> None:
    image, positions = torch.randn(1, 32, 20, 20), tiny_sam.prompt_encoder.get_dense_pe()
    sparse, dense = prompts(tiny_sam, 5)
    decoder = tiny_sam.mask_decoder
    assert decoder.logit_filter is None  # as in SAM
    plain, iou = decoder(image, positions, sparse, dense, multimask_output=True)
    decoder.logit_filter = LogitFilter(5)
    decoder.logit_filter.offset.fill_(0.3)
    filtered, same_iou = decoder(image, positions, sparse, dense, multimask_output=True)
    torch.testing.assert_close(filtered, decoder.logit_filter(plain))
    torch.testing.assert_close(same_iou, iou)
    prepared = decoder.prepare(image, positions, dense)
    confident, _, _ = decoder.predict_confident(prepared, sparse, iou.min().item() - 1)
    torch.testing.assert_close(confident, filtered.flatten(0, 1))


class LowRank(nn.Module):
    """A low-rank adapter around a linear layer, with the attributes that such libraries give it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.weight, self.bias = base.weight, base.bias
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def test_adapters_around_projections_take_part(tiny_sam: Sam) -> None:
    channels = tiny_sam.mask_decoder.transformer_dim
    embedding = torch.randn(1, channels, *tiny_sam.prompt_encoder.image_embedding_size)
    sparse, dense = torch.randn(3, 2, channels), torch.zeros_like(embedding)
    given = (embedding, torch.randn_like(embedding), sparse, dense)
    decoder = tiny_sam.mask_decoder
    expected = decoder.predict_masks(*given)[0]
    names = ("q_proj", "k_proj", "v_proj", "out_proj")
    for attention in decoder.transformer.image_attentions:
        for name in names:
            adapter = LowRank(getattr(attention, name))
            nn.init.zeros_(adapter.up.weight)
            setattr(attention, name, adapter)
    adapters = [module for module in decoder.modules() if isinstance(module, LowRank)]
    assert not decoder.is_as_built()
    # Without anything learnt they change nothing, with gradients or without.
    with torch.no_grad():
        scale = expected.abs().max()
        torch.testing.assert_close(
            decoder.predict_masks(*given)[0], expected, rtol=0, atol=1e-4 * scale
        )
    decoder.predict_masks(*given)[0].square().sum().backward()
    assert all(adapter.up.weight.grad.any() for adapter in adapters)


@pytest.mark.parametrize("multimask_output", [False, True])
def test_every_head_has_a_gradient(tiny_sam: Sam, multimask_output: bool) -> None:
    channels = tiny_sam.mask_decoder.transformer_dim
    embedding = torch.randn(1, channels, *tiny_sam.prompt_encoder.image_embedding_size)
    sparse, dense = torch.randn(2, 2, channels), torch.zeros_like(embedding)
    decoder = tiny_sam.mask_decoder
    given = (embedding, torch.randn_like(embedding), sparse, dense, multimask_output)
    masks, iou = decoder(*given)
    (masks.sum() + iou.sum()).backward()
    assert all(weight.grad is not None for weight in decoder.parameters())
    with torch.no_grad():
        scale = masks.abs().max()
        torch.testing.assert_close(decoder(*given)[0], masks, rtol=0, atol=1e-4 * scale)


@torch.no_grad()
def test_prompts_of_many_tokens_have_image_tokens_of_their_own(tiny_sam: Sam) -> None:
    image, positions = torch.randn(1, 32, 20, 20), tiny_sam.prompt_encoder.get_dense_pe()
    decoder = tiny_sam.mask_decoder
    prepared = decoder.prepare(image, positions, prompts(tiny_sam, 2)[1])
    # 2 layers of 4 heads: 3 tokens have 26 rows, 4 have 34 of 32 channels.
    assert prepared.tokens(3) is prepared.shared
    assert prepared.tokens(4) is prepared.own


@torch.no_grad()
def test_no_prompts_have_no_masks(tiny_sam: Sam) -> None:
    image, positions = torch.randn(1, 32, 20, 20), tiny_sam.prompt_encoder.get_dense_pe()
    sparse, dense = tiny_sam.prompt_encoder(points=None, boxes=torch.zeros(0, 4), masks=None)
    masks, iou = tiny_sam.mask_decoder(image, positions, sparse, dense, True)
    assert masks.shape == (0, 3, 80, 80)
    assert iou.shape == (0, 3)


class ThreeMasks(nn.Module):
    """A network's decoder on one image, for the tracer, which takes no booleans."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam = sam

    def forward(self, image: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        positions = self.sam.prompt_encoder.get_dense_pe()
        return self.sam.mask_decoder(image, positions, sparse, dense, True)


@pytest.mark.parametrize("number", [1, 2])
def test_the_tracer_finds_the_same_with_gradients_and_without(tiny_sam: Sam, number: int) -> None:
    given = (torch.randn(1, 32, 20, 20), *prompts(tiny_sam, number))
    called = ThreeMasks(tiny_sam)
    traced = torch.jit.trace(called, given)
    image, sparse, dense = given
    with torch.no_grad():
        for other in (dense, torch.randn(dense.shape)):  # without and with a mask input
            torch.testing.assert_close(
                traced(image, sparse, other), called(image, sparse, other), rtol=1e-4, atol=1e-4
            )
