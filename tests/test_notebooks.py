"""Notebooks run from their first cell to the last, with the API as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    for package in {"onnx": ["onnx", "onnxruntime"], "everything": ["supervision"]}.get(
        path.stem, []
    ):
        pytest.importorskip(package)
    notebook = nbformat.read(path, as_version=4)
    less = {"[:5]": "[:1]", "per_side=4": "per_side=2"}  # of what is measured
    less["PRESETS |"] = '{"exact": None, "fast": PRESETS["fast"]} |'
    for cell in notebook.cells:
        for usual, shorter in less.items():
            cell.source = cell.source.replace(usual, shorter)
    resources = {"metadata": {"path": str(path.parent)}}
    nbclient.NotebookClient(
        notebook, timeout=500, kernel_name="python3", resources=resources
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert outputs
    assert len(str(outputs)) < 200_000


def test_they_are_saved_with_small_outputs() -> None:
    names = {path.stem for path in NOTEBOOKS}
    assert names >= {"predictor", "everything", "onnx", "how_much_faster"}
    for path in NOTEBOOKS:
        text = path.read_text(encoding="utf-8")
        assert len(text) < 200_000
        cells = json.loads(text)["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        assert any("image" in kind for output in outputs for kind in output.get("data", {}))
        assert "stderr" not in {output.get("name") for output in outputs}  # nor paths in warnings
