"""Images and their prompts as data sets list them: a list, COCO json, tar and Parquet files."""

from __future__ import annotations

import io
import json
import os
import posixpath
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from expedit_sam.batch.prompts import Prompt, box_prompt, points_prompt, prompts_of
from expedit_sam.errors import InputError
from expedit_sam.images import is_image_name

Item = dict[str, Any]

# Where a Parquet file may keep an image: its bytes (or {"bytes", "path"}), or where it is.
IMAGE_COLUMNS = ("image", "bytes", "img", "jpg", "png", "path", "uri", "url", "file_name")
_PROMPT_COLUMNS = ("boxes", "points", "labels")


def read_items(uri: str, name: str, images: str | None) -> Iterator[Item]:
    """The images that a file lists; one of an unknown kind is an image itself.

    Arguments:
        uri: the file.
        name: what the file is called in results.
        images: the folder that the names in it start from; None is the file's own.
    """
    read = _READERS.get(PurePosixPath(uri).suffix.lower(), _file)
    yield from read(uri, images or posixpath.dirname(uri), name)


def open_uri(uri: str) -> AbstractContextManager[Any]:
    """Open a file for reading bytes; in a local path "::" does not chain file systems.

    Raises:
        InputError: it is a pipe or a device, which may never end.
    """
    if uri.startswith(("file://", "local://")):
        uri = LocalFileSystem._strip_protocol(uri)
    if "://" in uri:
        return fsspec.open(uri, "rb")
    path = Path(uri)
    if path.exists() and not path.is_file() and os.access(path, os.R_OK):
        raise InputError(f"{uri} is no file: name an image or a data set")
    return path.open("rb")


def _file(uri: str, base: str, name: str) -> Iterator[Item]:
    yield {"image": name, "uri": uri}


def _unread(uri: str, base: str, name: str) -> Iterator[Item]:
    raise InputError(
        f"{uri} is of a kind that is not read: make it a .txt, .tar, .parquet or COCO .json"
    )


def _list(uri: str, base: str, name: str) -> Iterator[Item]:
    with open_uri(uri) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig")
        try:
            lines = dict.fromkeys(line.strip() for line in text)  # each once
        except UnicodeDecodeError:
            raise InputError(f"{uri} is not in UTF-8: save the list in that") from None
    for line in filter(None, lines):
        yield {"image": line, "uri": _below(base, line)}


def _coco(uri: str, base: str, name: str) -> Iterator[Item]:
    with open_uri(uri) as file:
        try:
            document = json.load(file)
            for image in document["images"]:
                _check_id(uri, image["id"])
            prompts: dict[int, list[Prompt]] = {image["id"]: [] for image in document["images"]}
            for annotation in document.get("annotations", []):
                where = f"annotation {annotation.get('id')} in {uri}"
                image_id = annotation.get("image_id")
                if image_id not in prompts:
                    raise InputError(f"{where}: there is no image {image_id!r}: mend or remove it")
                prompts[image_id] += _annotated(annotation, where)
            has_prompts = any(prompts.values())
            for image in document["images"]:
                yield {
                    "image_id": image["id"],
                    "image": image["file_name"],
                    "uri": _below(base, image["file_name"]),
                    "prompts": prompts[image["id"]] if has_prompts else None,
                }
        except InputError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{uri} is not in COCO's format ({type(error).__name__}: {error}): "
                "it needs 'images' and 'annotations'"
            ) from error


def _check_id(uri: str, number: Any) -> None:
    if type(number) is not int or not -(2**63) <= number < 2**63:  # a column of int64
        raise InputError(
            f"image id {number!r} in {uri} is no whole number of 64 bits: renumber the images"
        )


def _annotated(annotation: dict[str, Any], where: str) -> list[Prompt]:
    """The box of an annotation; if it has none of any size, its visible keypoints as one prompt."""
    form = "bbox is no [x, y, width, height]"
    try:
        if "bbox" in annotation:
            x, y, width, height = map(float, annotation["bbox"])
            # Label Studio gives a single keypoint a box of no size.
            if width or height or not annotation.get("keypoints"):
                return [box_prompt((x, y, x + width, y + height))]
        form = "keypoints are no [x, y, visible, ...]"
        numbers = annotation.get("keypoints", [])
        triples = zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)
        points = [(x, y) for x, y, visible in triples if visible]
        return [points_prompt(points, [1] * len(points))] if points else []
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{where}: its {form}: mend or remove it") from None


def _tar(uri: str, base: str, name: str) -> Iterator[Item]:
    """A WebDataset: KEY.jpg, and prompts in a KEY.json beside it.

    Items say at which byte an image lies in the file, so that each can be read alone.
    """
    images: dict[str, Item] = {}  # by name: a key may have several, k.jpg and k.png
    prompts: dict[str, list[Prompt] | None] = {}
    with open_uri(uri) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    key, suffix = posixpath.splitext(member.name)
                    own_name = posixpath.basename(member.name)
                    if not member.isfile() or own_name.startswith("."):  # ._k.jpg of a Mac
                        continue
                    if is_image_name(own_name):
                        if member.issparse():  # its bytes do not lie together
                            raise InputError(f"{member.name} in {uri} is sparse: pack without -S")
                        place = {"uri": uri, "offset": member.offset_data, "size": member.size}
                        images[member.name] = {"image": f"{name}/{member.name}", **place}
                    elif suffix == ".json" and (text := tar.extractfile(member)):
                        prompts[key] = _described(text.read(), f"{member.name} in {uri}")
                file.seek(tar.offset)
                # tarfile takes a damaged header for the end, where there would be zeros.
                if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                    raise tarfile.ReadError
        except InputError:
            raise
        except (tarfile.TarError, ValueError) as error:
            raise InputError(f"{uri} is damaged, or no plain tar: unpack .tar.gz first") from error
    for name, item in images.items():
        yield {**item, "prompts": prompts.get(posixpath.splitext(name)[0])}


def _described(text: bytes, where: str) -> list[Prompt] | None:
    """The prompts in a KEY.json, if it has any."""
    try:
        described = json.loads(text)
    except ValueError as error:
        raise InputError(f"{where} is no json ({error}): mend it or leave it out") from error
    return _prompts(described, where) if isinstance(described, dict) else None


def _prompts(row: Item, where: str) -> list[Prompt] | None:
    """The prompts of a row; an error names the place of the row."""
    try:
        return prompts_of(row)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _parquet(uri: str, base: str, name: str) -> Iterator[Item]:
    with open_uri(uri) as file:
        try:
            data = pq.ParquetFile(file)
            schema = data.schema_arrow
            column = image_column(schema)
            check_plain((f for f in schema if f.name in (column, *_PROMPT_COLUMNS)), uri)
            wanted = [c for c in _PROMPT_COLUMNS if c in schema.names]
            if _is_text(schema.field(column).type):
                wanted.append(column)
            elif _lacks_bytes(data.metadata, column):
                wanted.append(f"{column}.path")
            rows = data.read(columns=wanted).to_pylist() or [{}] * data.metadata.num_rows
        except pa.ArrowInvalid as error:
            raise InputError(f"{uri} is no Parquet file that can be read: get it again") from error
    for number, row in enumerate(rows):
        item: Item = {"image": f"{name}#{number}", "uri": uri, "row": number}
        place = row.get(column)
        if isinstance(place, dict):
            place = place["path"]
        if isinstance(place, str):
            item = {"image": place, "uri": _below(base, place)}
        yield {**item, "prompts": _prompts(row, f"row {number} of {uri}")}


def _is_text(kind: pa.DataType) -> bool:
    """Whether a column holds text, in any of the forms that Arrow has for it."""
    if pa.types.is_dictionary(kind):  # pandas' category
        kind = kind.value_type
    is_one_of = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(is_text(kind) for is_text in is_one_of)


def _lacks_bytes(metadata: pq.FileMetaData, column: str) -> bool:
    """Whether each {"bytes", "path"} is a path alone, as Hugging Face's data sets write files."""
    leaves = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    if not {f"{column}.bytes", f"{column}.path"} <= set(leaves):
        return False
    leaf = leaves.index(f"{column}.bytes")
    chunks = [metadata.row_group(i).column(leaf) for i in range(metadata.num_row_groups)]
    known = [chunk.statistics for chunk in chunks if chunk.statistics]
    return [s.null_count for s in known] == [chunk.num_values for chunk in chunks]


def image_column(schema: pa.Schema) -> str:
    """The column of a Parquet file or a data set that holds images or where they are.

    Raises:
        InputError: there is none.
    """
    for name in IMAGE_COLUMNS:
        if name in schema.names:
            return name
    raise InputError(
        f"no column of images among {', '.join(schema.names)}: "
        f"call it one of {', '.join(IMAGE_COLUMNS)}"
    )


def check_plain(fields: Iterable[pa.Field], uri: str) -> None:
    """See that reading columns of a Parquet file runs no code of its author.

    Raises:
        InputError: they hold objects that Ray, where it is loaded, unpickles as they are read.
    """
    if "extension<ray.data.arrow_pickled_object" in str(list(fields)):
        raise InputError(f"{uri} holds pickled objects, which could run code: write plain values")


def _below(base: str, name: str) -> str:
    """A name in a file as a URI: relative ones start from the base."""
    name = unchained(name)
    return name if "://" in name or Path(name).is_absolute() else f"{base.rstrip('/')}/{name}"


def unchained(name: str) -> str:
    """The name itself, unless it is a chain of file systems, which could run code of its author.

    Raises:
        InputError: it is.
    """
    if "::" in name and "://" in name:  # reference:// renders templates, unguarded in older fsspec
        raise InputError(f"{name} is a chain of file systems: write a path or a plain URL")
    return name


_READERS: dict[str, Callable[[str, str, str], Iterator[Item]]] = {
    ".txt": _list,
    ".json": _coco,
    ".tar": _tar,
    ".parquet": _parquet,
    **dict.fromkeys((".csv", ".gz", ".jsonl", ".tgz", ".tsv", ".zip"), _unread),  # no images either
}
