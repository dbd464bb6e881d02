"""Records of many masks, stored column by column."""

from __future__ import annotations

from collections.abc import ItemsView
from copy import deepcopy
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_array_api_obj, is_torch_array, to_device


class MaskData:
    """Columns (lists, arrays or tensors) of one length, filtered and concatenated together."""

    def __init__(self, **kwargs: Any) -> None:
        self._stats: dict[str, Any] = {}
        for name, column in kwargs.items():
            self[name] = column

    def __setitem__(self, key: str, item: Any) -> None:
        if not (isinstance(item, list) or is_array_api_obj(item)):
            raise TypeError(
                f"column {key} is a {type(item).__name__}; give a list, array or tensor"
            )
        self._stats[key] = item

    def __delitem__(self, key: str) -> None:
        del self._stats[key]

    def __getitem__(self, key: str) -> Any:
        return self._stats[key]

    def items(self) -> ItemsView[str, Any]:
        """Names and columns."""
        return self._stats.items()

    def filter(self, keep: Any) -> None:
        """Keep some rows.

        Arguments:
            keep: a boolean for each row, or the indices of those kept, in the order wanted.
        """
        rows = np.asarray(keep if isinstance(keep, list) else to_device(keep, "cpu"))
        if rows.dtype == bool:
            rows = rows.nonzero()[0]
        for name, column in self._stats.items():
            is_list = isinstance(column, list)
            self._stats[name] = [column[i] for i in rows] if is_list else column[rows]

    def cat(self, new_stats: MaskData) -> None:
        """Append the rows of another; the first brings the columns."""
        for name, column in new_stats.items():
            own = self._stats.get(name)
            if own is None:
                self._stats[name] = deepcopy(column)
            elif isinstance(column, list):
                self._stats[name] = own + deepcopy(column)
            else:
                self._stats[name] = array_namespace(own, column).concat([own, column])

    def to_numpy(self) -> None:
        """Turn columns that are tensors into NumPy arrays."""
        for name, column in self._stats.items():
            if is_torch_array(column):
                self._stats[name] = column.detach().cpu().numpy()
