"""Masks as PNGs, each with a hash of its pixels, by which one that somebody corrected is known."""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from expedit_sam.appearing import mask_name

_CONTENTS = "Contents"  # the PNG's text that has the hash
_HEADER_BYTES = 33  # the signature and the first chunk of every PNG


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Write a HxW boolean mask as greys of 0 and 255."""
    pixels = mask.view(np.uint8) * 255
    # Pillow would write the text, but takes twice as long.
    _, encoded = cv2.imencode(".png", pixels)
    png, text = encoded.tobytes(), _text_chunk(_CONTENTS, _hash(pixels))
    path.write_bytes(png[:_HEADER_BYTES] + text + png[_HEADER_BYTES:])


def corrected_masks(folder: Path) -> list[Path]:
    """Masks in a folder, by their names, that are not as ``write_mask`` left them."""
    masks = sorted(folder.glob("*.png"))
    return [path for path in masks if _is_mask_name(path) and not _is_as_written(path)]


def _is_mask_name(path: Path) -> bool:
    return bool(re.fullmatch("[0-9]+", path.stem)) and path.name == mask_name(int(path.stem))


def _is_as_written(path: Path) -> bool:
    try:
        with Image.open(path, formats=["PNG"]) as image:  # EPS would start Ghostscript
            return image.info.get(_CONTENTS) == _hash(np.asarray(image))
    except Exception:  # Pillow raises many kinds at files that are no PNG, or half a one
        return False


def _hash(pixels: np.ndarray) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def _text_chunk(keyword: str, text: str) -> bytes:
    """A text of a PNG (its specification, section 11.3.3.2)."""
    content = f"tEXt{keyword}\0{text}".encode("latin-1")
    return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
