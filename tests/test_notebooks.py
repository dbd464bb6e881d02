"""Notebooks run from their first cell to the last, with the API as it is."""

from __future__ import annotations

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
    resources = {"metadata": {"path": str(path.parent)}}
    nbclient.NotebookClient(
        notebook, timeout=500, kernel_name="python3", resources=resources
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert outputs
    assert len(str(outputs)) < 2_000_000


def test_there_are_some_and_their_sizes_are_small() -> None:
    names = {path.stem for path in NOTEBOOKS}
    assert names >= {"predictor", "everything", "onnx", "how_much_faster"}
    assert all(path.stat().st_size < 1_000_000 for path in NOTEBOOKS)
