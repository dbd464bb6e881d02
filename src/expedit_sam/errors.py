"""What went wrong because of what the user gave, as opposed to a fault of ours."""

from __future__ import annotations


class InputError(ValueError):
    """A fault in the user's input; the message is one line that names it and the remedy."""


class CheckpointError(InputError):
    """A checkpoint that is missing, damaged, foreign or of another model."""
