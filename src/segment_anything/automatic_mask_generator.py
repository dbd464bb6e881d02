"""Segment everything, under the original's name."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from expedit_sam import everything
from segment_anything.modeling import Sam
from segment_anything.predictor import SamPredictor
from segment_anything.utils.amg import *  # noqa: F403 (the original's module shows them too)
from segment_anything.utils.amg import MaskData

__all__ = ["Sam", "SamAutomaticMaskGenerator", "SamPredictor"]


class SamAutomaticMaskGenerator(everything.SamAutomaticMaskGenerator):
    __doc__ = everything.SamAutomaticMaskGenerator.__doc__

    def _process_batch(self, *args: Any, **kwargs: Any) -> MaskData:
        """Tensors: methods of a subclass, written for the original's, go on with them."""
        data = super()._process_batch(*args, **kwargs)
        for name, column in data.items():
            if isinstance(column, np.ndarray):
                data[name] = torch.from_numpy(column)
        return data
