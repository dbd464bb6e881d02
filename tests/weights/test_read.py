from __future__ import annotations

import pickle
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from expedit_sam.errors import CheckpointError
from expedit_sam.model.architectures import ARCHITECTURES, new_sam
from expedit_sam.model.sam import Sam
from expedit_sam.weights.read import assemble, identify, read_sam, read_weights

PREFIX = "image_encoder.blocks.0."


def save_zip(contents: object, path: Path) -> None:
    torch.save(contents, path)


def save_legacy(contents: object, path: Path) -> None:
    torch.save(contents, path, _use_new_zipfile_serialization=False)


SAVERS = [save_zip, save_legacy, save_file]


@pytest.fixture
def weights(small: None) -> dict[str, Tensor]:
    """Of a small network that goes by the name vit_b."""
    sam = new_sam(ARCHITECTURES["vit_b"])
    return {name: torch.randn_like(weight) for name, weight in sam.state_dict().items()}


def complaint_of(path: Path, model: str = "vit_b") -> str:
    with pytest.raises(CheckpointError) as caught:
        read_sam(path, model)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def assert_holds(sam: Sam, weights: dict[str, Tensor]) -> None:
    assert sam.state_dict().keys() == weights.keys()
    for name, weight in sam.state_dict().items():
        assert weight.dtype == torch.float32
        assert weight.device.type == "cpu"
        assert torch.equal(weight, weights[name].float()), name


@pytest.mark.parametrize("save", SAVERS)
@pytest.mark.parametrize("name", ["sam.pth", "sam.safetensors"])  # whatever it says
def test_reads_every_format(weights, tmp_path, save, name) -> None:
    path = tmp_path / name
    save(weights, path)
    sam = read_sam(path, "vit_b")
    assert_holds(sam, weights)
    assert not sam.training


def test_buffers_that_no_checkpoint_holds(weights, tmp_path) -> None:
    torch.save(weights, tmp_path / "sam.pth")
    sam, usual = read_sam(tmp_path / "sam.pth", "vit_b"), new_sam(ARCHITECTURES["vit_b"])
    assert torch.equal(sam.pixel_mean, usual.pixel_mean)
    assert torch.equal(sam.pixel_std, usual.pixel_std)
    everything = [*sam.parameters(), *sam.buffers()]
    assert len(everything) == len([*usual.parameters(), *usual.buffers()])
    assert not any(tensor.is_meta for tensor in everything)
    assert all(parameter.requires_grad for parameter in sam.parameters())


def test_network_computes_what_a_usual_load_computes(weights, tmp_path) -> None:
    torch.save(weights, tmp_path / "sam.pth")
    usual = new_sam(ARCHITECTURES["vit_b"])
    usual.load_state_dict(weights)
    record = {
        "image": torch.rand(3, 64, 48) * 255,
        "original_size": (32, 24),
        "point_coords": torch.tensor([[[20.0, 30.0]]]),
        "point_labels": torch.ones(1, 1),
    }
    expected = usual([record], True)[0]
    result = read_sam(tmp_path / "sam.pth", "vit_b")([record], True)[0]
    assert torch.equal(result["low_res_logits"], expected["low_res_logits"])
    assert expected["low_res_logits"].std() > 0


def test_reading_leaves_random_numbers_alone(weights, tmp_path) -> None:
    torch.save(weights, tmp_path / "sam.pth")
    before = torch.get_rng_state()
    read_sam(tmp_path / "sam.pth", "vit_b")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("save", SAVERS)
def test_weights_outlive_the_file(weights, tmp_path, save) -> None:
    path = tmp_path / "sam.bin"
    save(weights, path)
    sam = read_sam(path, "vit_b")
    path.write_bytes(bytes(path.stat().st_size))
    assert_holds(sam, weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("save", SAVERS)
def test_other_floats_become_float32(weights, tmp_path, dtype, save) -> None:
    stored = {name: weight.to(dtype) for name, weight in weights.items()}
    save(stored, tmp_path / "sam.bin")
    assert_holds(read_sam(tmp_path / "sam.bin", "vit_b"), stored)


@pytest.mark.parametrize("wrapper", ["model", "state_dict"])
def test_wrapped_weights(weights, tmp_path, wrapper) -> None:
    torch.save({wrapper: weights, "epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "sam.pth")
    assert_holds(read_sam(tmp_path / "sam.pth", "vit_b"), weights)


def test_parameters_are_read_as_weights(weights, tmp_path) -> None:
    torch.save(dict(new_sam(ARCHITECTURES["vit_b"]).named_parameters()), tmp_path / "sam.pth")
    read = read_weights(tmp_path / "sam.pth")
    assert not any(weight.requires_grad for weight in read.values())


@pytest.mark.parametrize("model", ["vit_s", "vit_b", "vit_l", "vit_h"])
def test_identify(model: str) -> None:
    with torch.device("meta"):
        weights = new_sam(ARCHITECTURES[model]).state_dict()
    assert identify({name: weight.shape for name, weight in weights.items()}) == model


def test_identify_knows_what_it_does_not_know() -> None:
    assert identify({}) is None
    assert identify({"image_encoder.patch_embed.proj.weight": ()}) is None
    assert identify({"image_encoder.patch_embed.proj.weight": (768, 3, 16, 16)}) is None


def test_checkpoint_of_another_model(weights, tmp_path) -> None:
    torch.save(weights, tmp_path / "sam.pth")
    complaint = complaint_of(tmp_path / "sam.pth", "vit_l")
    assert complaint.endswith("is a vit_b checkpoint, not vit_l: pass model 'vit_b'")


def test_lacking_weights(weights, tmp_path) -> None:
    lacking = {name: weight for name, weight in weights.items() if not name.startswith(PREFIX)}
    torch.save(lacking, tmp_path / "sam.pth")
    count = len(weights) - len(lacking)
    complaint = complaint_of(tmp_path / "sam.pth")
    assert f"lacks {count} weights of vit_b such as '{PREFIX}" in complaint


def test_unknown_and_misshapen_weights(weights, tmp_path) -> None:
    weights["extra\nline"] = torch.ones(1)
    weights["image_encoder.pos_embed"] = torch.zeros(1, 5, 5, 24)
    torch.save(weights, tmp_path / "sam.pth")
    complaint = complaint_of(tmp_path / "sam.pth")
    assert r"1 weights unknown to vit_b such as 'extra\nline'" in complaint
    assert "1 weights of another shape" in complaint
    assert "'image_encoder.pos_embed', 1x5x5x24 instead of 1x4x4x24" in complaint


def test_nothing_is_assigned_that_does_not_fit(weights) -> None:
    weights.pop("image_encoder.pos_embed")
    with pytest.raises(CheckpointError, match=r"^the upload lacks 1 weights"):
        assemble(weights, "vit_b", source="the upload")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_none(weights, tmp_path, value) -> None:
    weights["image_encoder.pos_embed"][0, 1, 2, 3] = value
    torch.save(weights, tmp_path / "sam.pth")
    assert "NaN or infinity in 'image_encoder.pos_embed'" in complaint_of(tmp_path / "sam.pth")


@pytest.mark.parametrize("save", SAVERS)
@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.999])
def test_truncated_files(weights, tmp_path, save, share) -> None:
    path = tmp_path / "sam.bin"
    save(weights, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "truncated or damaged" in complaint_of(path)


def test_an_archive_with_a_damaged_end(weights, tmp_path) -> None:
    save_zip(weights, tmp_path / "sam.pth")
    damaged = bytearray((tmp_path / "sam.pth").read_bytes())
    damaged[-30:-22] = b"U" * 8
    (tmp_path / "sam.pth").write_bytes(damaged)
    assert "truncated or damaged" in complaint_of(tmp_path / "sam.pth")


def test_missing_files_and_folders(tmp_path) -> None:
    assert "does not exist" in complaint_of(tmp_path / "no.pth")
    assert "is a folder" in complaint_of(tmp_path)
    (tmp_path / "empty.pth").touch()
    assert "is empty" in complaint_of(tmp_path / "empty.pth")


@pytest.mark.skipif(sys.platform == "win32", reason="needs symbolic links")
def test_unreadable_file(tmp_path) -> None:
    (tmp_path / "sam.pth").symlink_to("sam.pth")
    assert "cannot be read (Too many levels" in complaint_of(tmp_path / "sam.pth")


@pytest.mark.parametrize("content", [b"<html>404</html>" * 9, b"version https://git-lfs", b"\x01"])
def test_files_of_another_kind(tmp_path, content) -> None:
    (tmp_path / "sam.pth").write_bytes(content)
    assert "no PyTorch or safetensors file" in complaint_of(tmp_path / "sam.pth")


def test_archives_of_another_kind(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "letter.docx", "w") as archive:
        archive.writestr("word/document.xml", "Dear Sir")
    assert "is no PyTorch checkpoint" in complaint_of(tmp_path / "letter.docx")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_compiled_network_is_refused(tmp_path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "net.pt")
    assert "is no PyTorch checkpoint" in complaint_of(tmp_path / "net.pt")


@pytest.mark.parametrize(
    ("contents", "complaint"),
    [
        ([torch.ones(2)], "holds no weights by name"),
        ({}, "holds no weights by name"),
        (torch.ones(2), "holds no weights by name"),
        ({"epoch": 3}, "holds 'epoch', which names no tensor"),
        ({7: torch.ones(2)}, "holds 7, which names no tensor"),
        ({"a": torch.ones(2, dtype=torch.int8)}, "holds 'a' as torch.int8"),
        ({"a": torch.ones(2).to_sparse()}, "holds 'a' as"),
        ({"a": torch.ones(2, device="meta")}, "holds 'a' as"),
        ({"a": torch.ones(1).expand(2**20, 2**20)}, "repeats the numbers of 'a'"),
        (
            {"fc.weight": torch.ones(2)},
            "is no SAM checkpoint: it holds",
        ),
    ],
)
def test_foreign_contents(tmp_path, contents, complaint) -> None:
    torch.save(contents, tmp_path / "sam.pth")
    assert complaint in complaint_of(tmp_path / "sam.pth")


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors(tmp_path) -> None:
    torch.save({"a": torch.nested.nested_tensor([torch.ones(2)])}, tmp_path / "sam.pth")
    is_read = torch.__version__ < "2.15"
    expected = "holds 'a' as torch.float32" if is_read else "it holds more than weights"
    assert expected in complaint_of(tmp_path / "sam.pth")


@pytest.mark.skipif(sys.platform == "win32", reason="Python guesses everybody's home there")
def test_nobody_s_home(tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"~nobody-here/sam\.pth does not exist"):
        read_weights("~nobody-here/sam.pth")


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("save", [save_zip, save_legacy, "pickle"])
def test_code_is_never_run(weights, tmp_path, save) -> None:
    path, marker = tmp_path / "sam.pth", tmp_path / "marker"
    contents = {**weights, "payload": Malicious(marker)}
    if save == "pickle":
        path.write_bytes(pickle.dumps(contents))
    else:
        save(contents, path)
    assert "was refused" in complaint_of(path)
    assert not marker.exists()
    with path.open("rb") as file:  # the trap works: a trusting reader would have run it
        if save == "pickle":
            pickle.load(file)
        else:
            torch.load(file, weights_only=False)
    assert marker.exists()
