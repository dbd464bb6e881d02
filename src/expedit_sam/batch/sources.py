"""What is to be segmented: folders, lists, globs, tar files, Parquet, COCO json, anywhere."""

from __future__ import annotations

import itertools
import posixpath
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from expedit_sam.batch.readers import Item, read_items
from expedit_sam.batch.schema import ITEMS
from expedit_sam.errors import InputError
from expedit_sam.images import is_image_name, search_folder

_ITEMS_PER_BATCH = 100_000  # held as dicts, which take several times the memory of a table
_PLUGINS = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "hf": "huggingface_hub",
    "az": "adlfs",
    "abfs": "adlfs",
    "http": "aiohttp",
    "https": "aiohttp",
}


def list_items(source: str, images: str | None = None, limit: int | None = None) -> pa.Table:
    """The images of a source in a fixed order, as a table with the schema ``ITEMS``.

    Arguments:
        source: a folder (searched with its subfolders), an image, a .txt with an image a line, a
            WebDataset's .tar, a .parquet, a COCO .json, or several of them as a glob or with
            {000..099}; a path, or a URL that fsspec reads (s3://, gs://, hf://, https:// ...).
        images: the folder that the names in a list, a Parquet file or a json start from; None is
            the file's own. A relative path starts from the current working folder.
        limit: at most so many images.

    Raises:
        InputError: there is nothing of that kind, or it cannot be read.
    """
    if images and "://" not in images:
        images = Path(images).absolute().as_posix()  # a job may go on from another folder
    with readable(source):
        items = _numbered(itertools.islice(_found(source, images), limit))
        batches = []
        while some := list(itertools.islice(items, _ITEMS_PER_BATCH)):
            batches.append(pa.RecordBatch.from_pylist(some, ITEMS))
    if not batches:
        raise InputError(f"no images in {source}: name images, a list or a data set (folder/*.tar)")
    table = pa.Table.from_batches(batches)
    _check_unique(source, table["image_id"])
    return table


def _found(source: str, images: str | None) -> Iterator[Item]:
    """The images of all files that a source stands for; a file is read when its turn comes."""
    root, uris = _expand(source)
    for uri in uris:
        yield from read_items(uri, uri.removeprefix(root).lstrip("/"), images)


def _numbered(items: Iterable[Item]) -> Iterator[Item]:
    for index, item in enumerate(items):
        _check_text(item["uri"])
        _check_text(item["image"])
        yield {"image_id": index + 1, **item, "index": index}


def _check_text(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = name.encode(errors="backslashreplace").decode()
        raise InputError(f"the name {shown} is not in UTF-8: rename the file") from None


def _check_unique(source: str, ids: pa.ChunkedArray) -> None:
    """Raise ``InputError`` if two images have one id, which is all that masks refer to in COCO."""
    found, counts = pc.value_counts(ids).flatten()
    repeated = found.filter(pc.greater(counts, 1))
    if len(repeated):
        raise InputError(
            f"{source} has image id {repeated[0]} more than once: "
            "give one json at a time, or renumber the images"
        )


@contextmanager
def readable(source: str) -> Iterator[None]:
    """Turn whatever a file system raises into an ``InputError`` that names the source."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{source} does not exist: check the path") from None
    except PermissionError:
        raise InputError(f"{source} cannot be opened: allow reading it") from None
    except ImportError as error:
        protocol = source.partition("://")[0]
        package = _PLUGINS.get(protocol, f"the fsspec plugin for {protocol}")
        raise InputError(f"{protocol}:// needs {package}: pip install {package}") from error
    except Exception as error:  # every file system has its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{source} cannot be read: {reason}") from error


def _expand(source: str) -> tuple[str, list[str]]:
    """The files that a source stands for, sorted, and the folder that they have in common."""
    found: list[str] = []
    roots = []
    as_it_is = "://" not in source and Path(source).exists()
    for text in [source] if as_it_is else _braces(source):
        if "://" in text:
            fs, path = url_to_fs(text)
            prefix = text.partition("://")[0] + "://"
        else:
            fs, path, prefix = LocalFileSystem(), LocalFileSystem._strip_protocol(text), ""
        if fs.isdir(path):
            roots.append(path)
            kept = _images_below(path, fs)
        elif fs.exists(path):
            roots.append(posixpath.dirname(path))
            kept = [path]
        elif re.search(r"[*?\[]", path):
            folder = re.split(r"/[^/]*[*?\[]", path)[0]
            roots.append(folder)
            kept = [f for f in fs.glob(path) if fs.isfile(f) and not _is_hidden(f, folder)]
        else:
            raise FileNotFoundError
        found += [file if "://" in file else prefix + file for file in sorted(kept)]
    if not roots:  # {3..1} counts down, and names nothing
        return "", []
    root = roots[0] if len(set(roots)) == 1 else posixpath.commonpath(roots)
    return prefix + root if "://" not in root else root, list(dict.fromkeys(found))


def _images_below(folder: str, fs: AbstractFileSystem) -> list[str]:
    """The image files in a folder and its subfolders, but for hidden ones."""
    if isinstance(fs, LocalFileSystem):  # fsspec omits locked folders, and links to folders
        return [path.as_posix() for path in search_folder(Path(folder))]
    files = (file for file in fs.find(folder) if not _is_hidden(file, folder))
    return [file for file in files if is_image_name(PurePosixPath(file).name)]


def _braces(text: str) -> list[str]:
    """Expand WebDataset's ranges: shard-{000..002}.tar is three names."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", text)
    if not match:
        return [text]
    first, last = match.groups()
    return [
        name
        for number in range(int(first), int(last) + 1)
        for name in _braces(
            text[: match.start()] + f"{number:0{len(first)}d}" + text[match.end() :]
        )
    ]


def _is_hidden(file: str, folder: str) -> bool:
    """Whether a file, or a folder on the way to it from this one, is hidden."""
    return any(part.startswith(".") for part in PurePosixPath(file.removeprefix(folder)).parts)
