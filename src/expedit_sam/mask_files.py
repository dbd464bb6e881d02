"""Masks as PNGs, each with a hash of its pixels, by which one that somebody corrected is known.

It also says which image it is of, so that those of another one of the same name are known.
"""

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
_IMAGE = "Image"  # that which has the image's path
_HEADER_BYTES = 33  # the signature and the first chunk of every PNG


def write_mask(path: Path, mask: np.ndarray, image: str) -> None:
    """Write a HxW boolean mask of an image as greys of 0 and 255."""
    pixels = mask.view(np.uint8) * 255
    # Pillow would write the texts, but takes twice as long.
    _, encoded = cv2.imencode(".png", pixels)
    png = encoded.tobytes()
    texts = _text_chunk(_CONTENTS, _hash(pixels)) + _text_chunk(_IMAGE, image)
    path.write_bytes(png[:_HEADER_BYTES] + texts + png[_HEADER_BYTES:])


def masked_image(folder: Path) -> str:
    """The image that the first mask in a folder was written for; "" if it does not say."""
    try:
        with Image.open(_masks(folder)[0], formats=["PNG"]) as mask:
            return str(mask.info.get(_IMAGE, ""))
    except Exception:  # there is none, or see ``_is_as_written``
        return ""


def corrected_masks(folder: Path) -> list[Path]:
    """Masks in a folder, by their names, that are not as ``write_mask`` left them."""
    return [path for path in _masks(folder) if not _is_as_written(path)]


def _masks(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.png")) if _is_mask_name(path)]


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
    """A text of a PNG in UTF-8, uncompressed (its specification, section 11.3.3.4)."""
    # A name that is no UTF-8 will not be found again.
    content = b"iTXt" + keyword.encode() + b"\0\0\0\0\0" + text.encode(errors="replace")
    return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
