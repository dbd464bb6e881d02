from __future__ import annotations

import pytest
import torch

from expedit_sam import expedite
from expedit_sam.hourglass.settings import Hourglass
from expedit_sam.model.image_encoder import ImageEncoderViT
from expedit_sam.model.sam import Sam
from tests.conftest import golden_file, golden_sam


@pytest.mark.parametrize("name", ["even", "padded"])
@torch.no_grad()
def test_exact_matches_the_original(name: str) -> None:
    golden = golden_file(f"encoder_{name}")
    embedding = golden_sam(name).image_encoder(golden["pixels"])
    largest = golden["exact"].abs().max()
    torch.testing.assert_close(embedding, golden["exact"], rtol=0, atol=1e-4 * largest)


@pytest.mark.parametrize("index", range(5))
@torch.no_grad()
def test_hourglass_matches_the_published_method(index: int, golden_meta: dict) -> None:
    golden = golden_file("encoder_even")
    setting = golden_meta["sam_even"]["hourglass"][index]
    encoder = golden_sam("even").image_encoder
    encoder.hourglass = Hourglass(
        location=setting["location"],
        clusters=setting["num_clusters"],
        iterations=setting["iterations"],
        temperature=setting["temperature"],
        neighborhood=setting["neighborhood"],
        reconstruction_neighbors=setting["reconstruction_k"],
        scale_free=False,
        size_aware=False,
        keep_detail=False,
        mean_values=False,
    )
    expected = golden[setting["name"]]
    embedding = encoder(golden["pixels"])
    torch.testing.assert_close(embedding, expected, rtol=0, atol=1e-4 * expected.abs().max())


@torch.no_grad()
def test_as_many_clusters_as_tokens_is_exact(tiny_sam: Sam) -> None:
    pixels = torch.randn(1, 3, 320, 320)
    encoder = tiny_sam.image_encoder
    exact = encoder(pixels)
    encoder.hourglass = Hourglass(location=1, clusters=196, temperature=1e5)
    torch.testing.assert_close(encoder(pixels), exact, rtol=0, atol=1e-4 * exact.abs().max())


@torch.no_grad()
def test_a_neck_that_begins_differently_gets_the_tokens(tiny_sam: Sam) -> None:
    pixels = torch.randn(1, 3, 320, 320)
    encoder = tiny_sam.image_encoder
    encoder.hourglass = Hourglass(location=1, clusters=25, keep_detail=False)
    embedding = encoder(pixels)
    projection, *rest = encoder.neck
    with_bias = torch.nn.Conv2d(projection.in_channels, projection.out_channels, kernel_size=1)
    with_bias.weight.copy_(projection.weight)
    torch.nn.init.zeros_(with_bias.bias)
    encoder.neck = torch.nn.Sequential(with_bias, *rest)
    torch.testing.assert_close(encoder(pixels), embedding, rtol=0, atol=1e-4)
    encoder.neck = torch.nn.Sequential()
    assert encoder(pixels).shape == (1, projection.in_channels, 20, 20)


@torch.no_grad()
def test_the_setting_can_be_switched_at_any_time(tiny_sam: Sam) -> None:
    pixels = torch.randn(1, 3, 320, 320)
    encoder = tiny_sam.image_encoder
    exact = encoder(pixels)
    encoder.hourglass = Hourglass(location=1, clusters=25)
    clustered = encoder(pixels)
    assert not torch.allclose(clustered, exact, atol=1e-3)
    encoder.hourglass = None
    assert torch.equal(encoder(pixels), exact)


@pytest.mark.parametrize("hourglass", [None, Hourglass(location=0.5)])
@torch.no_grad()
def test_an_image_does_not_depend_on_its_batch(tiny_sam: Sam, hourglass: Hourglass | None) -> None:
    encoder = tiny_sam.image_encoder
    encoder.hourglass = hourglass
    pixels = torch.randn(2, 3, 320, 320)
    together = encoder(pixels)
    alone = torch.cat([encoder(image[None]) for image in pixels])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4 * alone.abs().max())


def test_an_image_size_that_the_patch_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="img_size 100 is no multiple of patch_size 16"):
        ImageEncoderViT(img_size=100, patch_size=16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_clustering_keeps_its_precision_under_autocast(dtype: torch.dtype, tiny_sam: Sam) -> None:
    encoder, pixels = expedite(tiny_sam, "balanced").image_encoder, torch.randn(1, 3, 320, 320)
    expected = encoder(pixels)
    with torch.autocast("cpu", dtype):
        found = encoder(pixels)  # distances in float16 would be not a number
    assert (found.float() - expected).norm() < 0.05 * expected.norm()


@torch.no_grad()
def test_exporting_leaves_no_tensors_behind(tiny_sam: Sam) -> None:
    encoder, pixels = expedite(tiny_sam, "balanced").image_encoder, torch.randn(1, 3, 320, 320)
    exported = torch.export.export(encoder, (pixels,), strict=False).module()
    found = encoder(pixels)
    assert type(found) is torch.Tensor
    torch.testing.assert_close(exported(pixels), found, rtol=1e-4, atol=1e-4)
