from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from expedit_sam.build import build_sam
from expedit_sam.errors import InputError
from expedit_sam.hourglass.settings import PRESETS, Hourglass
from expedit_sam.model import int8
from expedit_sam.model.architectures import ARCHITECTURES, Architecture, new_sam
from expedit_sam.model.int8 import Int8Linear
from expedit_sam.weights import download, embedded
from expedit_sam.weights.registry import CHECKPOINTS, Checkpoint


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of a few thousand weights under the usual names, and a cache folder of our own."""
    for depth, name in enumerate(("vit_s", "vit_b", "vit_l"), start=2):
        window = 0 if name == "vit_s" else 2
        small = Architecture(16, depth, 2, (1,), window, name != "vit_s", 64, 16, 16, 2, 32, 16)
        monkeypatch.setitem(ARCHITECTURES, name, small)
    monkeypatch.setenv("EXPEDIT_SAM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A checkpoint of the small vit_b."""
    torch.save(new_sam(ARCHITECTURES["vit_b"]).state_dict(), tmp_path / "my.pth")
    return tmp_path / "my.pth"


def complaint_of(*args: object, **kwargs: object) -> str:
    with pytest.raises(InputError) as caught:
        build_sam(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_embedded_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = new_sam(ARCHITECTURES["vit_s"]).state_dict()
    (tmp_path / "data").mkdir()
    save_file({name: w.half() for name, w in weights.items()}, tmp_path / "data/vit_s.safetensors")
    monkeypatch.setattr(embedded.resources, "files", lambda package: tmp_path)
    sam = build_sam()
    assert sam.image_encoder.hourglass is None
    assert not sam.training
    assert all(torch.equal(w, weights[n].half()) for n, w in sam.state_dict().items())


@pytest.mark.parametrize("as_type", [str, Path])
def test_own_checkpoint(saved: Path, as_type: type) -> None:
    sam = build_sam("vit_b", checkpoint=as_type(saved))
    weights = torch.load(saved)
    assert all(torch.equal(w, weights[name]) for name, w in sam.state_dict().items())


def test_precision_of_the_image_encoder(saved: Path) -> None:
    sam = build_sam("vit_b", checkpoint=saved, precision="bfloat16", hourglass="balanced")
    whole = build_sam("vit_b", checkpoint=saved, hourglass="balanced")
    assert {w.dtype for w in sam.image_encoder.parameters()} == {torch.bfloat16}
    assert {w.dtype for w in sam.mask_decoder.parameters()} == {torch.float32}
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        rounded, exact = sam.image_encoder(pixels), whole.image_encoder(pixels)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).norm() / exact.norm() < 0.1


def test_int8_rounds_the_image_encoder_alone(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "has_integer_products", lambda: True)
    sam = build_sam("vit_b", checkpoint=saved, precision="int8", hourglass="balanced")
    assert not any(type(part) is nn.Linear for part in sam.image_encoder.modules())
    assert not any(type(part) is Int8Linear for part in sam.mask_decoder.modules())


def test_int8_is_for_a_cpu(saved: Path) -> None:
    complaint = complaint_of("vit_b", checkpoint=saved, precision="int8", device="meta")
    assert complaint == "int8 is for a CPU: pass device 'cpu', or bfloat16 for 'meta'"


def test_int8_is_refused_before_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "has_integer_products", lambda: False)
    monkeypatch.setattr("expedit_sam.build.fetch", lambda _: pytest.fail("it was downloaded"))
    assert complaint_of("vit_b", precision="int8").startswith("int8 needs a CPU with AVX-512 VNNI")


def test_unknown_precision(saved: Path) -> None:
    complaint = complaint_of("vit_b", checkpoint=saved, precision="int3")
    assert complaint.endswith("choose one of float32, bfloat16, int8")


def test_official_checkpoint_from_the_cache(saved, tmp_path, monkeypatch) -> None:
    content = saved.read_bytes()
    entry = Checkpoint(
        "vit_b", "sam.pth", "http://127.0.0.1:9/sam.pth", len(content),
        hashlib.sha256(content).hexdigest(), "MIT", "a test",
    )  # fmt: skip
    monkeypatch.setitem(CHECKPOINTS, "vit_b", entry)
    monkeypatch.setattr(download, "_PAUSE_SECONDS", 0)
    assert "cannot reach http://127.0.0.1:9/sam.pth" in complaint_of("vit_b")
    saved.rename(tmp_path / "cache" / "sam.pth")
    assert build_sam("vit_b", hourglass="fast").image_encoder.hourglass == PRESETS["fast"]


def test_random_is_the_same_every_time_and_disturbs_nothing() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build_sam("vit_l", checkpoint="random").state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = build_sam("vit_l", checkpoint="random").state_dict()
    assert all(torch.equal(first[name], second[name]) for name in second)
    assert first["image_encoder.blocks.0.mlp.lin1.weight"].std() > 0


def test_random_as_a_path_is_a_file() -> None:
    assert "random does not exist" in complaint_of("vit_b", checkpoint=Path("random"))


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name: str) -> None:
    sam = build_sam("vit_b", checkpoint="random", hourglass=name)
    assert sam.image_encoder.hourglass == PRESETS[name]


def test_hourglass_is_used() -> None:
    setting = Hourglass(location=1, clusters=1)
    exact = build_sam("vit_b", checkpoint="random")
    clustered = build_sam("vit_b", checkpoint="random", hourglass=setting)
    assert clustered.image_encoder.hourglass is setting
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    results = [sam.image_encoder(pixels) for sam in (exact, clustered)]
    assert results[0].shape == results[1].shape
    assert not torch.allclose(results[0], results[1])


def test_unknown_model() -> None:
    complaint = complaint_of("vit_x")
    assert "'vit_x'" in complaint
    assert "vit_s, vit_b, vit_l, vit_h" in complaint


@pytest.mark.parametrize(
    ("hourglass", "word"),
    [
        ("turbo", "turbo"),
        (Hourglass(location=3), "location 3"),
        (Hourglass(clusters=9), "clusters 9"),
    ],
)
def test_setting_that_does_not_fit_is_refused_before_any_download(hourglass, word) -> None:
    with pytest.raises(ValueError, match=word):
        build_sam("vit_b", hourglass=hourglass)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_where_there_is_none() -> None:
    with pytest.raises(InputError, match="'cuda' is not available"):
        build_sam("vit_b", checkpoint="random", device="cuda")


def test_device_that_does_not_exist() -> None:
    assert "'toaster'" in complaint_of("vit_b", checkpoint="random", device="toaster")


def test_device(saved: Path) -> None:
    assert build_sam("vit_b", checkpoint=saved, device=torch.device("cpu")).device.type == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda(saved: Path) -> None:
    sam = build_sam("vit_b", checkpoint=saved, device="cuda")
    assert all(tensor.is_cuda for tensor in [*sam.parameters(), *sam.buffers()])
