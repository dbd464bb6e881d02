"""Run-length encoding of masks, as COCO has it (column by column, background first).

Functions that read COCO RLE also take uncompressed RLE, which subclasses of the original's use.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import to_device
from pycocotools import mask as coco

Rle = dict[str, Any]


def encode_masks(masks: Any) -> list[Rle]:
    """NxHxW boolean masks, an array or a tensor, to COCO RLE, ``counts`` as bytes."""
    pixels = np.asarray(to_device(masks, "cpu")).view(np.uint8)
    return [coco.encode(np.asfortranarray(mask)) for mask in pixels]


def encode_transposed(mask: np.ndarray) -> Rle:
    """A mask, given as WxH uint8, to COCO RLE: in the encoding's own order, so without a copy."""
    return coco.encode(mask.T)


def decode_mask(rle: Rle) -> np.ndarray:
    """COCO RLE (``counts`` as bytes or text) to an HxW boolean mask."""
    return coco.decode(compressed(rle)).astype(bool)


def area(rle: Rle) -> int:
    """Pixels of a mask in COCO RLE."""
    return int(coco.area(compressed(rle)))


def to_coco(rle: Rle) -> Rle:
    """COCO RLE with ``counts`` as text, which json can hold."""
    counts = compressed(rle)["counts"]
    counts = counts if isinstance(counts, str) else counts.decode("ascii")
    return {"size": list(rle["size"]), "counts": counts}


def compressed(rle: Rle) -> Rle:
    """COCO RLE of uncompressed RLE; COCO RLE itself stays as it is."""
    is_compressed = isinstance(rle["counts"], bytes | str)
    return rle if is_compressed else coco.frPyObjects(rle, *rle["size"])


def to_uncompressed(rle: Rle) -> Rle:
    """COCO RLE with ``counts`` as a list of run lengths."""
    return mask_to_uncompressed(decode_mask(rle))


def mask_to_uncompressed(mask: np.ndarray) -> Rle:
    """An HxW boolean mask to uncompressed RLE."""
    pixels = mask.T.ravel()
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    counts = np.diff(changes, prepend=0, append=pixels.size).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if pixels[0] else counts}
