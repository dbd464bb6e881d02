"""The image encoder as the hourglass fork names it."""

from __future__ import annotations

import warnings
from typing import Any

from expedit_sam.hourglass.published import DEFAULTS, in_published_names, published_setting
from expedit_sam.model.image_encoder import ImageEncoderViT

__all__ = ["HourglassImageEncoderViT"]


class HourglassImageEncoderViT(ImageEncoderViT):
    """An image encoder whose hourglass is set by the fork's arguments, exactly as published.

    Arguments:
        args, kwargs: those of ``ImageEncoderViT``, and the ``hourglass_*`` arguments of
            ``load_hourglass_args``.
    """

    _published = DEFAULTS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        names = [name for name in kwargs if name.startswith("hourglass_")]
        hourglass_args = {name: kwargs.pop(name) for name in names}
        super().__init__(*args, **kwargs)
        if hourglass_args:
            self.load_hourglass_args(**hourglass_args)

    def load_hourglass_args(self, **hourglass_args: Any) -> None:
        """Change the hourglass; what is not named stays as it was.

        Arguments:
            hourglass_args: any of ``hourglass_clustering_location`` (a negative block number
                switches the hourglass off), ``hourglass_num_cluster``,
                ``hourglass_cluster_iters``, ``hourglass_temperture`` (or ``..._temperature``),
                ``hourglass_cluster_window_size`` and ``hourglass_reconstruction_k``.

        Raises:
            TypeError: there is no such argument.
            ValueError: a value is out of its range, or does not fit the network.
        """
        given = in_published_names(hourglass_args)
        published = {**self._published, **given}
        setting = published_setting(published)
        self.hourglass = setting
        if setting is None and given and "hourglass_clustering_location" not in given:
            warnings.warn(
                "clustering stays off: pass hourglass_clustering_location, the block it starts at",
                stacklevel=2,
            )
        self._published = published
