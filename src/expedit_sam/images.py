"""Finding image files, and reading one as a person sees it."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable
from glob import glob
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from expedit_sam.errors import InputError

# HEIC is here although Pillow cannot read it: it is to be reported, not passed over in silence.
SUFFIXES = frozenset(
    [
        ".avif",
        ".bmp",
        ".gif",
        ".heic",
        ".heif",
        ".jfif",
        ".jp2",
        ".jpeg",
        ".jpg",
        ".pbm",
        ".pgm",
        ".png",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    ]
)
# Not all that Pillow knows: EPS would start Ghostscript, and IPTC may hold an image of any size.
_FORMATS = ("AVIF", "BMP", "DIB", "GIF", "HEIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_SCAN = re.compile(b"\xff\xda\0[\x08\x0a\x0c\x0e]")  # a JPEG's marker, and the length after it
_MOST_SCANS = 500  # of a JPEG; progressive ones have about ten, in a few pictures each
_CONVERT = "convert it to JPEG or PNG"

# Pillow warns of a decompression bomb at 89 megapixels, which cameras reach; at twice that it
# raises. Filtered here and not around each call, since threads that read images share the filters.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an image file as a person sees it.

    The EXIF orientation is applied, transparent pixels are laid on white, 16-bit greys are scaled
    to 8 bits, and other kinds of pixels (palette, CMYK, grey, 1-bit) become RGB.

    ::

        image = read_image("photo.jpg")

    Returns:
        HxWx3 uint8, RGB, 0 to 255.

    Raises:
        InputError: there is no such file, or it is no image that can be read whole.
    """
    path = Path(path)
    if path.is_dir() and os.access(path, os.R_OK):
        raise InputError(f"{path} is a folder: name an image file in it")
    try:
        with path.open("rb") as file:
            return decode_image(file, str(path))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: check the image's path") from None
    except PermissionError:
        raise InputError(f"{path} cannot be opened: allow reading it") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): get it again") from error


def decode_image(file: BinaryIO, name: str, megapixels: float | None = None) -> np.ndarray:
    """``read_image`` from an open file.

    Arguments:
        file: opened to read bytes.
        name: what an error calls the file.
        megapixels: of the largest image that is decoded; None leaves the limit to Pillow.

    Returns:
        HxWx3 uint8, RGB, 0 to 255.

    Raises:
        InputError: it is no image that can be read whole, or too large.
    """
    try:
        Image.init()  # fills Image.OPEN, which depends on Pillow's version and plugins
        known = [name for name in _FORMATS if name in Image.OPEN]
        with Image.open(file, formats=known) as image:
            _check_size(image, name, megapixels)
            if image.format in ("JPEG", "MPO"):
                _check_scans(file, name)
            return np.array(_to_rgb(_upright(image), image.format))
    except UnidentifiedImageError:
        raise InputError(f"{name} is no image that can be read: {_unidentified(file)}") from None
    except Image.DecompressionBombError as error:
        raise InputError(f"{name} has too many pixels: scale it down ({error})") from error
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{name} needs more memory than there is: scale it down") from None
    except Exception as error:  # a damaged file can raise anything
        reason = " ".join(str(error).split())
        raise InputError(
            f"{name} is damaged or of an odd kind ({reason}): get it again, or {_CONVERT}"
        ) from error


def find_images(
    paths: Iterable[str | os.PathLike[str]], without: str | os.PathLike[str] | None = None
) -> list[Path]:
    """The image files that these files and folders stand for, each once.

    A file is taken whatever its name; folders are searched with all their subfolders and what
    links lead to, in order of names, for files with an image's suffix. Hidden files and folders
    are skipped. A folder that cannot be searched is listed too, so that reading it says why.

    ::

        find_images(["photo.jpg", "more_photos"])

    Arguments:
        paths: files and folders; where there is none of a name, * and ? in it match others.
        without: a folder that is not searched, such as that of the results.

    Raises:
        InputError: a path does not exist, or there is no image at all.
    """
    found: dict[str, Path] = {}  # Path.resolve raises at links that lead to themselves
    places = [place for path in paths for place in _matching(Path(path))]
    for path in places:
        if not path.exists():
            raise InputError(f"{path} does not exist: check the image's path")
        for file in search_folder(path, without) if path.is_dir() else [path]:
            found.setdefault(os.path.realpath(file), file)
    if not found:
        where = ", ".join(map(str, places)) or "an empty list"
        raise InputError(f"no images in {where}: name image files, or folders that hold some")
    return list(found.values())


def search_folder(folder: Path, without: str | os.PathLike[str] | None = None) -> list[Path]:
    """The image files below a folder, and folders that are locked, as ``find_images`` has them."""
    images: list[Path] = []
    seen = {os.path.realpath(path) for path in (folder, without or folder)}

    def keep_locked(error: OSError) -> None:
        images.append(Path(error.filename))

    for place, folders, files in os.walk(folder, onerror=keep_locked, followlinks=True):
        new = {
            name: path
            for name in folders
            if not name.startswith(".")
            and (path := os.path.realpath(Path(place, name))) not in seen
        }
        folders[:] = sorted(new)
        seen.update(new.values())  # links can lead round in circles
        found = [Path(place, name) for name in files if is_image_name(name)]
        images += [path for path in found if path.is_file() or not path.exists()]  # pipes may wait
    return sorted(images)


def is_image_name(name: str) -> bool:
    """Whether a file of this name is taken for an image: by its suffix, and if not hidden."""
    return not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES


def _matching(path: Path) -> list[Path]:
    """What a path stands for: Windows' shells leave * and ? to the programs they start."""
    pattern = str(path).replace("[", "[[]")  # many names hold brackets
    return [path] if path.exists() else sorted(map(Path, glob(pattern))) or [path]  # noqa: PTH207


def _unidentified(file: BinaryIO) -> str:
    """What to do about a file that Pillow does not know."""
    return _CONVERT if file.seek(0, os.SEEK_END) else "it is empty, get it again"


def _check_size(image: Image.Image, name: str, megapixels: float | None) -> None:
    width, height = image.size
    if megapixels is not None and width * height > megapixels * 10**6:
        raise InputError(
            f"{name} has {width}x{height} pixels: scale it to at most {megapixels:g} megapixels"
        )


def _check_scans(file: BinaryIO, name: str) -> None:
    """Refuse a JPEG of a few bytes that would take hours, because it goes over its pixels often."""
    place = file.tell()
    file.seek(0)
    scans = len(_SCAN.findall(file.read()))
    file.seek(place)
    if scans > _MOST_SCANS:
        raise InputError(f"{name} is a JPEG of {scans} scans: save it again, as PNG for instance")


def _upright(image: Image.Image) -> Image.Image:
    """The image, loaded and turned as its EXIF says."""
    image.load()
    image.getexif()  # Pillow keeps what it has read
    # Nobody needs EXIF back, and Pillow cannot write every odd tag that it reads.
    for key in ("exif", "Raw profile type exif"):
        image.info.pop(key, None)
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _to_rgb(image: Image.Image, format: str | None) -> Image.Image:
    """As RGB; greys of more than 8 bits are scaled, transparent pixels are laid on white."""
    # Some versions of Pillow open 16 bits as 32.
    if image.mode.startswith("I;16") or (image.mode == "I" and format in ("PNG", "PPM")):
        return _scaled(image, 0, 2**16 - 1)
    if image.mode in ("I", "F"):  # 32-bit numbers have no usual range: take the image's own
        return _scaled(image, *image.getextrema())
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _scaled(image: Image.Image, low: float, high: float) -> Image.Image:
    """Greys from ``low`` to ``high`` as black to white."""
    grey = (np.asarray(image, dtype=np.float32) - low) * (255 / (high - low or 1))
    if not np.isfinite(grey).all():
        raise ValueError("pixels are NaN or infinite")
    return Image.fromarray(grey.round().astype(np.uint8)).convert("RGB")
