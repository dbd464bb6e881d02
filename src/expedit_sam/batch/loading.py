"""The pixels and prompts of one row: of a job's list, or of somebody's data set."""

from __future__ import annotations

import io
import time
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from expedit_sam.base_predictor import check_image
from expedit_sam.batch.prompts import Prompt, prompts_of
from expedit_sam.batch.readers import check_plain, image_column, open_uri, unchained
from expedit_sam.batch.sources import readable
from expedit_sam.errors import InputError
from expedit_sam.images import decode_image

ITEM_COLUMNS = ("uri", "offset", "size", "row", "prompts")
_RETRY_WAITS = (1, 2)  # seconds before reading a file over HTTP, S3 ... once more


def load_item(item: dict[str, Any]) -> tuple[np.ndarray, list[Prompt] | None]:
    """The HxWx3 uint8 image of a row with the schema ``ITEMS``, and its prompts.

    Raises:
        InputError: it cannot be read, or is no image.
    """
    with readable(item["uri"]):
        data = _read_with_retries(item)
    return decode_image(io.BytesIO(data), item["image"]), item["prompts"]


def load_row(row: dict[str, Any], column: str) -> tuple[np.ndarray, list[Prompt] | None]:
    """The HxWx3 uint8 image of a data set's row, and its ``boxes`` or ``points``.

    Arguments:
        row: of a ``ray.data.Dataset``.
        column: holds an image as an array, its encoded bytes, {"bytes", "path"}, or where it is.

    Raises:
        InputError: it is none of these.
    """
    value = row[column]
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str):
        return load_item({"uri": unchained(value), "image": value, "prompts": prompts_of(row)})
    if isinstance(value, bytes):
        value = decode_image(io.BytesIO(value), column)
    check_image(value)
    return np.ascontiguousarray(value), prompts_of(row)


def _read_with_retries(item: dict[str, Any]) -> bytes:
    """The bytes of an item; a remote file system may fail for a moment."""
    for seconds in _RETRY_WAITS if "://" in item["uri"] else ():
        try:
            return _read_bytes(item)
        except (FileNotFoundError, PermissionError, InputError):
            raise
        except Exception:
            time.sleep(seconds)
    return _read_bytes(item)


def _read_bytes(item: dict[str, Any]) -> bytes:
    """The encoded image: a cell of a Parquet file, a stretch of a tar, or a whole file."""
    if item.get("row") is not None:
        return _read_cell(item["uri"], item["row"])
    with open_uri(item["uri"]) as file:
        file.seek(item.get("offset") or 0)
        return file.read(item["size"] if item.get("size") is not None else -1)


def _read_cell(uri: str, row: int) -> bytes:
    starts = _row_group_starts(uri)
    group = int(np.searchsorted(starts, row, side="right")) - 1
    value = _row_group(uri, group)[row - int(starts[group])].as_py()
    if isinstance(value, dict):
        value = value.get("bytes")
    if not isinstance(value, bytes):
        raise InputError(f"row {row} of {uri} holds no bytes of an image: write some, or paths")
    return value


@lru_cache(maxsize=16)
def _row_group_starts(uri: str) -> np.ndarray:
    """The number of the first row of each row group of a Parquet file."""
    with open_uri(uri) as file:
        metadata = pq.ParquetFile(file).metadata
    rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    return np.concatenate([[0], np.cumsum(rows)[:-1]]).astype(int)


@lru_cache(maxsize=2)  # rows come in order, and a group may hold a thousand images
def _row_group(uri: str, group: int) -> pa.ChunkedArray:
    with open_uri(uri) as file:
        data = pq.ParquetFile(file)
        column = image_column(data.schema_arrow)
        table = data.read_row_group(group, columns=[column])
        check_plain(table.schema, uri)
        return table[column]
