"""Exported graphs, run by onnxruntime or OpenVINO. No PyTorch."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from expedit_sam.errors import InputError
from expedit_sam.export.metadata import DIGEST_KEY


class Graph(Protocol):
    """A graph that takes and gives arrays by name.

    Attributes:
        digest: of the weights it was made from; None where it does not say.
    """

    digest: str | None

    def run(self, inputs: Mapping[str, np.ndarray], outputs: list[str]) -> list[np.ndarray]: ...


def open_graph(path: Path, format: str) -> Graph:
    """Load a graph of format "onnx" or "openvino".

    Raises:
        InputError: it does not exist, is damaged, or the runtime is not installed.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist: export again")
    opened: dict[str, Any] = {"onnx": OnnxGraph, "openvino": OpenVinoGraph}
    try:
        return opened[format](path)
    except ImportError as error:
        raise InputError(
            f"running {path.name} needs {error.name}: pip install 'expedit-sam[{format}]'"
        ) from None
    except Exception as error:  # what a damaged file raises depends on the runtime
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} cannot be loaded ({reason}): export again") from error


class OnnxGraph:
    """A graph in onnxruntime, on the best device that the installed runtime has."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        self._session = onnxruntime.InferenceSession(
            path, options, providers=onnxruntime.get_available_providers()
        )
        self.digest = self._session.get_modelmeta().custom_metadata_map.get(DIGEST_KEY)

    def run(self, inputs: Mapping[str, np.ndarray], outputs: list[str]) -> list[np.ndarray]:
        return self._session.run(outputs, dict(inputs))


def import_openvino() -> Any:
    """The openvino package, which else tells its maker of each import and conversion."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # cannot be imported
    import openvino

    return openvino


class OpenVinoGraph:
    """A graph in OpenVINO on the CPU, computing in float32 where the graph does."""

    def __init__(self, path: Path) -> None:
        core = import_openvino().Core()
        model = core.read_model(path)
        self.digest = model.get_rt_info(DIGEST_KEY).value if model.has_rt_info(DIGEST_KEY) else None
        # Left to itself it takes bfloat16 where the CPU has it, which clusters differently.
        self._compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(self, inputs: Mapping[str, np.ndarray], outputs: list[str]) -> list[np.ndarray]:
        results = self._compiled(dict(inputs))
        return [results[name].copy() for name in outputs]
