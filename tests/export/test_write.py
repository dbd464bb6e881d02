from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from expedit_sam import extras
from expedit_sam.errors import InputError
from expedit_sam.evaluate.agreement import agreement
from expedit_sam.export import write
from expedit_sam.export.graphs import open_graph
from expedit_sam.export.metadata import graph_path, read_metadata
from expedit_sam.export.runtime import SamPredictor as ExportedPredictor
from expedit_sam.export.write import export_sam
from expedit_sam.model.sam import Sam
from expedit_sam.predictor import SamPredictor
from tests.export.conftest import Export, small_sam

INPUTS = {
    "image_embeddings": [1, 32, 20, 20],
    "point_coords": [1, "num_points", 2],
    "point_labels": [1, "num_points"],
    "mask_input": [1, 1, 80, 80],
    "has_mask_input": [1],
    "orig_im_size": [2],
}


def decoder_inputs(points: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(points)
    return {
        "image_embeddings": random.normal(size=(1, 32, 20, 20)).astype(np.float32),
        "point_coords": random.uniform(0, 320, (1, points, 2)).astype(np.float32),
        "point_labels": random.integers(-1, 4, (1, points)).astype(np.float32),
        "mask_input": random.normal(size=(1, 1, 80, 80)).astype(np.float32),
        "has_mask_input": np.ones(1, np.float32),
        "orig_im_size": np.array(size, np.float32),
    }


@pytest.mark.parametrize(
    ("speed", "format"), [("exact", "onnx"), ("balanced", "onnx"), ("balanced", "openvino")]
)
def test_embeddings_are_those_of_the_network(exported: Export, speed: str, format: str) -> None:
    sam, folder = exported(speed, format)
    pixels = torch.randn(1, 3, 320, 320, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = sam.image_encoder(pixels).numpy()
    encoder = open_graph(graph_path(folder, "encoder", format), format)
    (found,) = encoder.run({"x": pixels.numpy()}, ["image_embeddings"])
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_metadata_says_what_was_written(exported: Export) -> None:
    sam, folder = exported("balanced", "onnx")
    assert sorted(path.name for path in folder.iterdir()) == [
        "decoder.onnx",
        "encoder.onnx",
        "metadata.json",
    ]
    metadata = read_metadata(folder)
    assert metadata.model == "vit_s"
    assert metadata.hourglass["location"] == sam.image_encoder.hourglass.location
    assert metadata.img_size == 320
    assert metadata.embedding_shape == (32, 20, 20)
    for part in ("encoder", "decoder"):
        assert open_graph(folder / f"{part}.onnx", "onnx").digest == metadata.weights
    other = json.loads((exported("exact", "onnx")[1] / "metadata.json").read_text())
    assert other["weights"] == metadata.weights  # the speed is no matter of weights
    assert other["hourglass"] is None


def test_decoder_has_the_originals_interface(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    sam = small_sam()
    path = tmp_path / "decoder.onnx"
    graph = write.SamOnnxModel(sam, True, use_stability_score=True, return_extra_metrics=True)
    write.write_onnx(graph, path)
    found = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in onnx.load(path).graph.input
    }
    assert found == INPUTS
    names = ["masks", "iou_predictions", "stability_scores", "areas", "low_res_masks"]
    assert [value.name for value in onnx.load(path).graph.output] == names
    session = open_graph(path, "onnx")
    for points, size in ((1, (90, 120)), (5, (333, 100))):
        inputs = decoder_inputs(points, size)
        expected = graph(*(torch.from_numpy(value) for value in inputs.values()))
        for a, b in zip(session.run(inputs, names), expected, strict=True):
            np.testing.assert_allclose(a, b.numpy(), rtol=1e-3, atol=1e-3)
        assert expected[0].shape == (1, 1, *size)


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_lower_precision_keeps_most_of_the_masks(
    exported: Export, photo: np.ndarray, precision: str
) -> None:
    sam, folder = exported("exact", "onnx", precision)
    _, whole = exported("exact", "onnx")
    sizes = [graph_path(place, "encoder", "onnx").stat().st_size for place in (folder, whole)]
    assert sizes[0] < 0.9 * sizes[1]  # of so small a network the graph is a good part
    kept = agreement(SamPredictor(sam), ExportedPredictor(folder), [photo], points_per_side=2)
    assert 0.8 < kept < 1


def test_large_weights_go_to_a_file_beside_the_graph(
    exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = exported("balanced", "onnx")
    monkeypatch.setattr(write, "_BYTES_PER_FILE", 1000)
    target = tmp_path / "encoder.onnx"
    write._save_onnx(folder / "encoder.onnx", target, "digest")
    weights = (tmp_path / "encoder.onnx.data").stat().st_size
    assert weights > 300_000
    assert target.stat().st_size < (folder / "encoder.onnx").stat().st_size - 0.9 * weights
    pixels = np.random.default_rng(0).normal(size=(1, 3, 320, 320)).astype(np.float32)
    results = [
        open_graph(path, "onnx").run({"x": pixels}, ["image_embeddings"])[0]
        for path in (target, folder / "encoder.onnx")
    ]
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "tflite"}, "no format is called 'tflite': choose one of onnx, openvino"),
        ({"precision": "int4"}, "no precision is called 'int4'"),
        ({"opset": 9}, "opset 9 cannot be written: choose 17"),
        ({"format": "openvino", "precision": "int8"}, "int8 can be written as onnx only"),
    ],
)
def test_what_cannot_be_written_is_refused(
    tiny_sam: Sam, tmp_path: Path, arguments: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        export_sam(tiny_sam, tmp_path / "out", model="vit_s", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named(
    tiny_sam: Sam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs onnx: pip install 'expedit-sam\[onnx\]'"):
        export_sam(tiny_sam, tmp_path, model="vit_s")


def test_a_broken_export_leaves_nothing(
    tiny_sam: Sam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx")

    def fail_at_the_decoder(graph: torch.nn.Module, path: Path, opset: int) -> None:
        if isinstance(graph, write.SamOnnxModel):
            raise InputError("the disk is full")
        path.write_bytes(b"")

    monkeypatch.setattr(write, "write_onnx", fail_at_the_decoder)
    monkeypatch.setattr(write, "_save_onnx", lambda source, target, digest: target.touch())
    with pytest.raises(InputError, match="the disk is full"):
        export_sam(tiny_sam, tmp_path, model="vit_s")
    assert list(tmp_path.iterdir()) == []


def test_openvino_on_a_full_disk_is_one_line(
    tiny_sam: Sam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openvino = pytest.importorskip("openvino")

    def fail(model: object, target: Path, **_: object) -> None:
        target.touch()
        raise RuntimeError("basic_ios::clear: iostream error\n")

    monkeypatch.setattr(openvino, "save_model", fail)
    with pytest.raises(InputError, match=r"cannot write to .*no space left\?.*iostream error\)"):
        export_sam(tiny_sam, tmp_path, model="vit_s", format="openvino")
    assert list(tmp_path.iterdir()) == []


def test_what_the_exporter_cannot_write_is_one_line(
    tiny_sam: Sam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise torch.onnx.errors.UnsupportedOperatorError("aten::roll", 13, None)

    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(InputError, match="cannot be written with opset 13") as raised:
        write.write_onnx(write.EncoderGraph(tiny_sam.image_encoder), tmp_path / "e.onnx", 13)
    assert "\n" not in str(raised.value)
