"""What went wrong because of what the user gave, as opposed to a fault of ours."""

from __future__ import annotations

import re


class InputError(ValueError):
    """A fault in the user's input; the message is one line that names it and the remedy."""


class CheckpointError(InputError):
    """A checkpoint that is missing, damaged, foreign or of another model."""


def one_line(text: object) -> str:
    """What to print: names of files may hold control characters, which would steer a terminal."""
    controls = r"[\x00-\x1f\x7f-\x9f]"
    return re.sub(controls, lambda found: ascii(found[0])[1:-1], str(text))


def is_out_of_memory(error: Exception) -> bool:
    """Whether Python, PyTorch or OpenCV had no memory left."""
    texts = (
        "CUDA out of memory",
        "CUDA error: out of memory",
        "STATUS_ALLOC_FAILED",  # cuBLAS's and cuDNN's
        "MPS backend out of memory",
        "can't allocate memory",
        "Insufficient memory",
    )
    return isinstance(error, MemoryError) or any(text in str(error) for text in texts)
