"""What is to be segmented: folders, lists, globs, tar files, Parquet, COCO json, anywhere."""

from __future__ import annotations

import io
import itertools
import json
import posixpath
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from expedit_sam.batch.prompts import Prompt, box_prompt, points_prompt, prompts_of
from expedit_sam.batch.schema import ITEMS
from expedit_sam.errors import InputError
from expedit_sam.images import is_image_name

Item = dict[str, Any]

# Where a Parquet file may keep an image: its bytes (or {"bytes", "path"}), or where it is.
IMAGE_COLUMNS = ("image", "bytes", "img", "jpg", "png", "path", "uri", "url", "file_name")
_PROMPT_COLUMNS = ("boxes", "points", "labels")
_TOGETHER = 100_000  # items as dicts, which take several times the memory of a table
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
            the file's own. What is relative is so to the working folder of now.
        limit: at most so many images.

    Raises:
        InputError: there is nothing of that kind, or it cannot be read.
    """
    if images and "://" not in images:
        images = Path(images).absolute().as_posix()  # a job may go on from another folder
    with readable(source):
        items = _numbered(itertools.islice(_found(source, images), limit))
        batches = []
        while some := list(itertools.islice(items, _TOGETHER)):
            batches.append(pa.RecordBatch.from_pylist(some, ITEMS))
    if not batches:
        raise InputError(f"no images in {source}: name a folder, list or data set that holds some")
    table = pa.Table.from_batches(batches)
    _check_unique(source, table["image_id"])
    return table


def _found(source: str, images: str | None) -> Iterator[Item]:
    """The images of all files that a source stands for; a file is read when its turn comes."""
    root, uris = _expand(source)
    for uri in uris:
        read = _READERS.get(PurePosixPath(uri).suffix.lower(), _file)
        base = images or posixpath.dirname(uri)
        yield from read(uri, base, uri.removeprefix(root).lstrip("/"))


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
    """In coco.json a mask has nothing but the id to say which image it is of."""
    found, counts = pc.value_counts(ids).flatten()
    repeated = found.filter(pc.greater(counts, 1))
    if len(repeated):
        raise InputError(
            f"{source} has image id {repeated[0]} more than once: "
            "give one json at a time, or renumber the images"
        )


@contextmanager
def readable(source: str) -> Iterator[None]:
    """Turns what can go wrong with somebody's file system into one line."""
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


def open_uri(uri: str) -> AbstractContextManager[Any]:
    """A file's bytes; in the name of a local one "::" is no chain of file systems."""
    return fsspec.open(uri, "rb") if "://" in uri else Path(uri).open("rb")


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
            kept = [file for file in fs.find(path) if _is_image(file, path)]
        elif fs.exists(path):
            roots.append(posixpath.dirname(path))
            kept = [path]
        elif re.search(r"[*?\[]", path):
            roots.append(re.split(r"/[^/]*[*?\[]", path)[0])
            kept = [file for file in fs.glob(path) if fs.isfile(file)]
        else:
            raise FileNotFoundError
        found += [file if "://" in file else prefix + file for file in sorted(kept)]
    if not roots:  # {3..1}
        return "", []
    root = roots[0] if len(set(roots)) == 1 else posixpath.commonpath(roots)
    return prefix + root if "://" not in root else root, list(dict.fromkeys(found))


def _braces(text: str) -> list[str]:
    """shard-{000..002}.tar as WebDataset writes it: three names."""
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


def _is_image(file: str, folder: str) -> bool:
    *folders, name = PurePosixPath(file.removeprefix(folder)).parts
    return is_image_name(name) and not any(part.startswith(".") for part in folders)


def _file(uri: str, base: str, name: str) -> Iterator[Item]:
    yield {"image": name, "uri": uri}


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
                    raise InputError(f"{where}: there is no image {image_id}: mend or remove it")
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
    """The box of an annotation; where it has none, its visible keypoints as one prompt."""
    form = "bbox is no [x, y, width, height]"
    try:
        if "bbox" in annotation:
            x, y, width, height = annotation["bbox"]
            return [box_prompt((x, y, x + width, y + height))]
        form = "keypoints are no [x, y, visible, ...]"
        numbers = annotation.get("keypoints", [])
        triples = zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)
        points = [(x, y) for x, y, visible in triples if visible]
        return [points_prompt(points, [1] * len(points))] if points else []
    except (TypeError, ValueError):
        raise InputError(f"{where}: its {form}: mend or remove it") from None


def _tar(uri: str, base: str, name: str) -> Iterator[Item]:
    """A WebDataset: KEY.jpg, and prompts in a KEY.json beside it.

    Only where the images lie in the file is kept, so that any of them can be read alone.
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
                        place = {"uri": uri, "offset": member.offset_data, "size": member.size}
                        images[member.name] = {"image": f"{name}/{member.name}", **place}
                    elif suffix == ".json" and (text := tar.extractfile(member)):
                        prompts[key] = _described(text.read(), f"{member.name} in {uri}")
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
    """The prompts of a row; what is wrong with them is said with its place."""
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
            wanted = [c for c in _PROMPT_COLUMNS if c in schema.names]
            if _is_text(schema.field(column).type):
                wanted.append(column)
            rows = data.read(columns=wanted).to_pylist() or [{}] * data.metadata.num_rows
        except pa.ArrowInvalid as error:
            raise InputError(f"{uri} is no Parquet file that can be read: get it again") from error
    for number, row in enumerate(rows):
        item: Item = {"image": f"{name}#{number}", "uri": uri, "row": number}
        if isinstance(row.get(column), str):
            item = {"image": row[column], "uri": _below(base, row[column])}
        yield {**item, "prompts": _prompts(row, f"row {number} of {uri}")}


def _is_text(kind: pa.DataType) -> bool:
    """Whether a column holds text, in any of the forms that Arrow has for it."""
    if pa.types.is_dictionary(kind):  # pandas' category
        kind = kind.value_type
    is_one_of = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(is_text(kind) for is_text in is_one_of)


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


def _below(base: str, name: str) -> str:
    """A name in a file as a URI: relative ones start from the base."""
    return name if "://" in name or Path(name).is_absolute() else f"{base.rstrip('/')}/{name}"


_READERS: dict[str, Callable[[str, str, str], Iterator[Item]]] = {
    ".txt": _list,
    ".json": _coco,
    ".tar": _tar,
    ".parquet": _parquet,
}
