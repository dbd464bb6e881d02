"""Whether the files that hold many images each are still those that a job's list was made from."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from expedit_sam.batch.sources import readable
from expedit_sam.errors import InputError

_KEY = b"versions"  # in the table's metadata: json with the version of each such file by its uri


def with_versions(items: pa.Table) -> pa.Table:
    """The list of a job with the present versions of its tar and Parquet files in its metadata.

    Arguments:
        items: a row an image, with the schema ``ITEMS``.

    Raises:
        InputError: one of them is gone.
    """
    held = items.filter(pc.or_(pc.is_valid(items["offset"]), pc.is_valid(items["row"])))
    versions = {uri: _version(uri) for uri in pc.unique(held["uri"]).to_pylist()}
    return items.replace_schema_metadata({_KEY: json.dumps(versions)})


def check_unchanged(items: pa.Table, chunks: Iterable[pa.Table]) -> None:
    """Check that the tar and Parquet files of some chunks are as they were when the job began.

    Arguments:
        items: the list of the job. One that holds no versions, of an older release, is not checked.
        chunks: the rows of it that are still to be done.

    Raises:
        InputError: one was written anew or is gone.
    """
    begun = json.loads((items.schema.metadata or {}).get(_KEY, b"{}"))
    if not begun:  # each image is a file
        return
    needed = {uri for chunk in chunks for uri in pc.unique(chunk["uri"]).to_pylist()}
    for uri, version in begun.items():
        if uri in needed and _version(uri) != version:
            raise InputError(
                f"{uri} was changed since the job began: "
                "put it back with its time, or choose another --out"
            )


def _version(uri: str) -> list[str]:
    """Size and, where the file system knows them, the contents' hash or the time of writing."""
    with readable(uri):
        fs, path = url_to_fs(uri) if "://" in uri else (LocalFileSystem(), uri)
        info = fs.info(path)
        tags = (info.get(name) for name in ("ETag", "etag", "mtime"))
        return [str(info["size"]), str(next(filter(None, tags), ""))]
