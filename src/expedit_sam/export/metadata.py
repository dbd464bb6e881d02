"""What an export's folder says about itself, in ``metadata.json``. No PyTorch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from expedit_sam.errors import InputError
from expedit_sam.everything.recommended import RECOMMENDED

FILE = "metadata.json"
FORMATS = {"onnx": "onnx", "openvino": "xml"}  # and the suffix of the graphs' files
PRECISIONS = ("float32", "float16", "int8")
# Under this name each graph holds the digest of the weights it was made from.
DIGEST_KEY = "expedit_sam_weights"
VERSION = 1

_LENGTHS = {"pixel_mean": 3, "pixel_std": 3, "embedding_shape": 3, "mask_input_size": 2}
_NAMES = {"format": (*FORMATS,), "model": (*RECOMMENDED,), "image_format": ("RGB", "BGR")}
_REMEDY = "name a folder that 'expedit-sam export' wrote"


@dataclass(frozen=True)
class Metadata:
    """An encoder and a decoder that belong together, and how to prepare an image for them.

    Attributes:
        format: "onnx" or "openvino".
        model: name of the network.
        weights: digest of its weights; both graphs carry it too.
        hourglass: the speed setting by its arguments' names; None is the exact network.
        precision: of the encoder; the decoder is float32.
        img_size: side of the network's square input in pixels. Images are scaled to it by their
            longest side, normalised, and padded below and right with zeros.
        pixel_mean, pixel_std: per channel, for pixels in 0 to 255.
        image_format: order of the channels, "RGB" or "BGR".
        mask_threshold: logits above it belong to a mask.
        embedding_shape: (C, h, w) of the image embedding.
        mask_input_size: (h, w) of low-res logits.
        version: of the layout of ``metadata.json``.
    """

    format: str
    model: str
    weights: str
    hourglass: dict[str, Any] | None
    precision: str
    img_size: int
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    image_format: str
    mask_threshold: float
    embedding_shape: tuple[int, ...]
    mask_input_size: tuple[int, ...]
    version: int = VERSION

    def write(self, folder: Path) -> None:
        """Write it as ``metadata.json``."""
        (folder / FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def read_metadata(folder: Path) -> Metadata:
    """The metadata of an export's folder.

    Raises:
        InputError: there is none, or it is damaged or of a later version.
    """
    path = folder / FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: {_REMEDY}") from None
    except NotADirectoryError:
        raise InputError(f"{folder} is no folder: {_REMEDY}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: export again") from error
    if not isinstance(values, dict) or values.get("version") != VERSION:
        raise InputError(f"{path} is of another version than {VERSION}: export again")
    if values.keys() != {field.name for field in fields(Metadata)}:
        raise InputError(f"{path} is damaged: export again")
    for name, length in _LENGTHS.items():
        if not isinstance(values[name], list) or len(values[name]) != length:
            raise InputError(f"{path} is damaged: export again")
        values[name] = tuple(values[name])
    for name, known in _NAMES.items():
        if values[name] not in known:
            raise InputError(f"{path} names the {name} {values[name]!r}: export again")
    return Metadata(**values)


def graph_path(folder: Path, part: str, format: str) -> Path:
    """Where the "encoder" or the "decoder" lies."""
    return folder / f"{part}.{FORMATS[format]}"
