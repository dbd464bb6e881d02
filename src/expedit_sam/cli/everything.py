"""What commands share of everything mode: options, their arguments, and how an image fails."""

from __future__ import annotations

import errno
import math
from pathlib import Path
from typing import Annotated

import typer

from expedit_sam.errors import InputError, is_out_of_memory

PointsPerSideOption = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Ask at NxN points. (*)")
]
PointsPerBatchOption = Annotated[
    int, typer.Option(min=1, metavar="N", help="Points to ask at a time.")
]
PredIouThreshOption = Annotated[
    float | None, typer.Option(metavar="X", help="Drop masks of a lower predicted IoU. (*)")
]
StabilityScoreThreshOption = Annotated[
    float | None, typer.Option(metavar="X", help="Drop masks that are less stable. (*)")
]
MinMaskRegionAreaOption = Annotated[
    int | None, typer.Option(metavar="PIXELS", help="Clear smaller holes and islands. (*)")
]
CropNLayersOption = Annotated[int, typer.Option(min=0, metavar="N", help="N layers of crops too.")]
SkipCoveredOption = Annotated[
    float,
    typer.Option(
        min=0, max=1, metavar="X", help="Skip points in masks of up to this share of the image."
    ),
]

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk, or the user's quota


def given_settings(**settings: float | None) -> dict[str, float]:
    """The arguments of everything mode that a user gave; options that were left out are None.

    Raises:
        InputError: one is NaN, which every mask would pass.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    for name, value in given.items():
        if math.isnan(value):
            raise InputError(f"--{name.replace('_', '-')} is no number: give one, or leave it out")
    return given


def image_fault(error: Exception, file: Path) -> InputError:
    """The error to report for an image that failed; a bug of ours is raised again."""
    if isinstance(error, InputError):
        return error
    if not is_out_of_memory(error):
        raise error
    return InputError(
        f"{file} needs more memory than there is: scale it down, or pass fewer --points-per-batch"
    )


def is_disk_full(error: Exception) -> bool:
    """Whether results could not be written for a reason that all further ones would meet too."""
    return getattr(error.__cause__, "errno", None) in _DISK_FULL
