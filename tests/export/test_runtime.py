from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from expedit_sam.errors import InputError
from expedit_sam.everything import SamAutomaticMaskGenerator
from expedit_sam.export import runtime
from expedit_sam.export.write import _save_onnx, export_sam
from expedit_sam.predictor import SamPredictor
from tests.export.conftest import Export, small_sam

BOX = np.array([20, 30, 100, 120])
POINTS = (np.array([[50, 60], [30, 40]]), np.array([1, 0]))
PROMPTS = [
    {"point_coords": POINTS[0][:1], "point_labels": POINTS[1][:1]},
    {"box": BOX},
    {"point_coords": POINTS[0], "point_labels": POINTS[1], "box": BOX, "multimask_output": False},
]
ALL = {"points_per_side": 3, "pred_iou_thresh": -100.0, "stability_score_thresh": 0.0}

# Imports of PyTorch and of what only writing an export needs fail.
WITHOUT = """
import sys
class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "onnx"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Forbidden())
"""


@pytest.mark.parametrize("format", ["onnx", "openvino"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_predictor_gives_the_networks_masks(
    exported: Export, photo: np.ndarray, format: str, prompt: dict
) -> None:
    sam, folder = exported("balanced", format)
    theirs, ours = SamPredictor(sam), runtime.SamPredictor(folder)
    for predictor in (theirs, ours):
        predictor.set_image(photo)
    assert ours.get_image_embedding().shape == tuple(theirs.get_image_embedding().shape)
    masks, scores, logits = theirs.predict(**prompt)
    for mask_input in (None, logits[:1]):
        expected = theirs.predict(**prompt, mask_input=mask_input)
        found = ours.predict(**prompt, mask_input=mask_input)
        assert found[0].dtype == bool
        assert (found[0] != expected[0]).mean() < 1e-3
        for a, b in zip(found[1:], expected[1:], strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, atol=1e-3)
    assert ours.predict(**prompt, return_logits=True)[0].dtype == np.float32
    assert masks.shape[0] == scores.shape[0] == (3 if prompt.get("multimask_output", True) else 1)


def test_an_export_of_single_masks_gives_the_best_one(photo: np.ndarray, tmp_path: Path) -> None:
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package)
    sam = small_sam()
    export_sam(sam, tmp_path, model="vit_s", return_single_mask=True)
    theirs, ours = SamPredictor(sam), runtime.SamPredictor(tmp_path)
    for predictor in (theirs, ours):
        predictor.set_image(photo)
    masks, scores, _ = theirs.predict(**PROMPTS[0])
    found, score, _ = ours.predict(**PROMPTS[0])
    assert found.shape == (1, *photo.shape[:2])
    assert (found[0] != masks[scores.argmax()]).mean() < 1e-3
    np.testing.assert_allclose(score, [scores.max()], atol=1e-3)


@pytest.mark.parametrize("layers", [0, 1])
def test_everything_mode_finds_the_networks_masks(
    exported: Export, photo: np.ndarray, layers: int
) -> None:
    sam, folder = exported("balanced")
    expected = SamAutomaticMaskGenerator(sam, **ALL, crop_n_layers=layers).generate(photo)
    found = runtime.SamAutomaticMaskGenerator(folder, **ALL, crop_n_layers=layers).generate(photo)
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        assert a["bbox"] == b["bbox"]
        assert a["point_coords"] == b["point_coords"]
        assert (a["segmentation"] != b["segmentation"]).mean() < 1e-3
    json.dumps([{**record, "segmentation": None} for record in found])


def test_bgr_and_faults_are_as_with_the_network(exported: Export, photo: np.ndarray) -> None:
    predictor = runtime.SamPredictor(exported("balanced")[1])
    with pytest.raises(RuntimeError, match="no image is set"):
        predictor.predict(*POINTS)
    with pytest.raises(InputError, match="uint8"):
        predictor.set_image(photo.astype(float))
    predictor.set_image(photo)
    expected = predictor.features
    predictor.set_image(photo[..., ::-1], image_format="BGR")
    np.testing.assert_array_equal(predictor.features, expected)
    with pytest.raises(InputError, match="one label a point"):
        predictor.predict(POINTS[0])


def test_openvino_tells_its_maker_nothing(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    program = """if True:
        import sys
        from expedit_sam.export.graphs import import_openvino

        import_openvino().Core()
        assert not [name for name in sys.modules if name.startswith("openvino_telemetry.")]
    """
    # On some services for tests it tells nothing anyway.
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    environment |= {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    assert list(tmp_path.iterdir()) == []  # its records


def test_strangers_are_refused(exported: Export, tmp_path: Path) -> None:
    _, folder = exported("balanced")
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    _save_onnx(folder / "encoder.onnx", tmp_path / "encoder.onnx", "another digest")
    with pytest.raises(InputError, match="an encoder and a decoder of different networks"):
        runtime.SamPredictor(tmp_path)
    (tmp_path / "encoder.onnx").write_bytes(b"no graph")
    with pytest.raises(InputError, match="cannot be loaded"):
        runtime.SamPredictor(tmp_path)
    (tmp_path / "encoder.onnx").unlink()
    with pytest.raises(InputError, match=r"encoder\.onnx does not exist"):
        runtime.SamPredictor(tmp_path)
    metadata = json.loads((tmp_path / "metadata.json").read_text())
    for text, message in (
        ("{", "is damaged"),
        (json.dumps({**metadata, "version": 99}), "of another version"),
        (json.dumps({"version": 1}), "is damaged"),
        ("[" * 100_000, "is damaged"),
        (json.dumps({**metadata, "mask_input_size": [64]}), "is damaged"),
        (json.dumps({**metadata, "format": ["onnx"]}), r"names the format \['onnx'\]"),
        (json.dumps({**metadata, "image_format": "BRG"}), "names the image_format 'BRG'"),
    ):
        (tmp_path / "metadata.json").write_text(text)
        with pytest.raises(InputError, match=message):
            runtime.SamPredictor(tmp_path)
    (tmp_path / "metadata.json").unlink()
    with pytest.raises(InputError, match=r"metadata\.json does not exist: name a folder"):
        runtime.SamPredictor(tmp_path)


def test_runs_without_pytorch(exported: Export, photo: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "photo.npy", photo)
    code = f"""{WITHOUT}
import numpy as np
import expedit_sam
from expedit_sam.export.runtime import SamAutomaticMaskGenerator, SamPredictor
image = np.load({str(tmp_path / "photo.npy")!r})
folder = {str(exported("balanced")[1])!r}
predictor = SamPredictor(folder)
predictor.set_image(image)
masks, scores, logits = predictor.predict(np.array([[50, 60]]), np.array([1]))
print(masks.shape, len(SamAutomaticMaskGenerator(folder, **{ALL!r}).generate(image)) > 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "(3, 150, 221) True\n", done.stderr


def test_a_missing_runtime_is_named(exported: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder = exported("balanced")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"needs onnxruntime: pip install 'expedit-sam\[onnx\]'"):
        runtime.SamPredictor(folder)
