"""Records of many masks, kept column by column."""

from __future__ import annotations

from collections.abc import ItemsView
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor


class MaskData:
    """Columns (lists, arrays or tensors) of one length, filtered and concatenated together."""

    def __init__(self, **kwargs: Any) -> None:
        self._columns: dict[str, Any] = {}
        for name, column in kwargs.items():
            self[name] = column

    def __setitem__(self, key: str, item: Any) -> None:
        if not isinstance(item, (list, np.ndarray, Tensor)):
            raise TypeError(
                f"column {key} is a {type(item).__name__}; give a list, array or tensor"
            )
        self._columns[key] = item

    def __delitem__(self, key: str) -> None:
        del self._columns[key]

    def __getitem__(self, key: str) -> Any:
        return self._columns[key]

    def items(self) -> ItemsView[str, Any]:
        """Names and columns."""
        return self._columns.items()

    def filter(self, keep: Tensor) -> None:
        """Keep the rows that ``keep`` names: a boolean for each, or the indices in their order."""
        rows = keep.nonzero()[:, 0] if keep.dtype == torch.bool else keep
        for name, column in self._columns.items():
            if isinstance(column, Tensor):
                self._columns[name] = column[rows.to(column.device)]
            elif isinstance(column, np.ndarray):
                self._columns[name] = column[rows.cpu().numpy()]
            else:
                self._columns[name] = [column[i] for i in rows.tolist()]

    def cat(self, new_stats: MaskData) -> None:
        """Append the rows of another."""
        for name, column in new_stats.items():
            own = self._columns.get(name)
            if own is None:
                self._columns[name] = deepcopy(column)
            elif isinstance(column, Tensor):
                self._columns[name] = torch.cat([own, column])
            elif isinstance(column, np.ndarray):
                self._columns[name] = np.concatenate([own, column])
            else:
                self._columns[name] = own + deepcopy(column)

    def to_numpy(self) -> None:
        """Turn tensors into arrays."""
        for name, column in self._columns.items():
            if isinstance(column, Tensor):
                self._columns[name] = column.detach().cpu().numpy()
