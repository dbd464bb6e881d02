"""A person's picture, small for the page and large for downloads, and what was made of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from expedit_sam.demo.clicks import Clicks
from expedit_sam.demo.clusters import ClusterMap
from expedit_sam.demo.masks import Candidates
from expedit_sam.demo.networks import Encoding, Found, Networks
from expedit_sam.errors import InputError
from expedit_sam.images import decode_image
from expedit_sam.transforms import ResizeLongestSide

PAGE_SIDE = 1280  # more than the networks see (at most 1024) and than most pages show
MEGAPIXELS = 100  # 300 MB while it is read
_ENCODINGS = 3  # kept of a picture: 14 MB each with vit_s, 46 MB with vit_b

_EXAMPLES = Path(__file__).parent / "examples"


@dataclass
class Picture:
    """A picture and all that a session knows of it; the next picture replaces everything.

    Attributes:
        path: the uploaded file.
        full_size: (H, W) of the picture in the file, as a person sees it.
        image: hxwx3 uint8, RGB: the picture, or a reduced copy of a large one.
        found, overlay: the result of the last run of everything mode, and its picture.
        clicks, compared: the prompts on the Click and the Compare tab.
        candidates: what the clicks may mean, and the encoding they came from.
        fault: why the last encoding failed, in a line; None where it succeeded.
    """

    path: Path
    full_size: tuple[int, int]
    image: np.ndarray
    found: Found | None = None
    overlay: np.ndarray | None = None
    clicks: Clicks = field(default_factory=Clicks)
    compared: Clicks = field(default_factory=Clicks)
    candidates: tuple[Encoding, Candidates] | None = None
    fault: str | None = None
    _encodings: dict[tuple[str, str], Encoding] = field(default_factory=dict)
    _cluster_maps: dict[tuple[str, str], ClusterMap] = field(default_factory=dict)

    def encoding(self, networks: Networks, model: str, speed: str) -> Encoding:
        """The embedding of the page's copy by a network at a speed; the last few are kept."""
        encoding = self._encodings.get((model, speed))
        if encoding is None:
            encoding = networks.encode(model, speed, self.image)
            while len(self._encodings) >= _ENCODINGS:
                self._encodings.pop(next(iter(self._encodings)))
            self._encodings[model, speed] = encoding
        return encoding

    def is_encoded(self, model: str, speed: str) -> bool:
        """Whether ``encoding`` is there already, so that a click takes only a moment."""
        return (model, speed) in self._encodings

    def cluster_map(self, networks: Networks, model: str, speed: str) -> ClusterMap:
        """How a network clusters the page's copy at a speed; computed once."""
        if (model, speed) not in self._cluster_maps:
            self._cluster_maps[model, speed] = networks.clusters(model, speed, self.image)
        return self._cluster_maps[model, speed]

    def has_candidates(self, model: str, speed: str) -> bool:
        """Whether ``candidates`` came from this network at this speed."""
        encoding = self._encodings.get((model, speed))
        return self.candidates is not None and self.candidates[0] is encoding

    def place_on_page(self, x: float, y: float) -> tuple[float, float]:
        """A pixel (x, y) of the picture in the file as (x, y) on the page's copy.

        Raises:
            InputError: it lies outside of the picture.
        """
        height, width = self.full_size
        if not (0 <= x < width and 0 <= y < height):
            raise InputError(
                f"({x}, {y}) is outside the picture of {width} x {height} pixels: "
                f"type x below {width} and y below {height}"
            )
        return x * self.image.shape[1] / width, y * self.image.shape[0] / height

    @property
    def name(self) -> str:
        """The file's name without suffix, for the names of results."""
        return self.path.stem

    @property
    def size_text(self) -> str:
        """Its size in pixels, in words."""
        height, width = self.full_size
        shown = self.image.shape
        if shown[:2] == self.full_size:
            return f"{width} x {height} pixels"
        return f"{width} x {height} pixels, shown at {shown[1]} x {shown[0]}"


def check_uploaded(path: str, folder: Path) -> None:
    """Raise ``InputError`` unless a file is in the folder of uploads, or an example.

    Gradio looks only at files that a request calls uploads, and a request can name any.
    """
    place = Path(path).resolve()
    if not any(place.is_relative_to(allowed.resolve()) for allowed in (folder, _EXAMPLES)):
        raise InputError("This is no upload: choose a picture.")


def read_picture(path: str | Path) -> Picture:
    """Read an uploaded file.

    Raises:
        InputError: it is no picture that can be read, too large, or cleared away.
    """
    path = Path(path)
    image = reduced = _read(path)
    if max(image.shape[:2]) > PAGE_SIDE:
        reduced = ResizeLongestSide(PAGE_SIDE).apply_image(image)
    return Picture(path, (image.shape[0], image.shape[1]), reduced)


def read_full_size(picture: Picture) -> np.ndarray:
    """The picture as it was uploaded: HxWx3 uint8, RGB.

    Raises:
        InputError: the server has cleared the upload away since.
    """
    return _read(picture.path)


def example_files() -> list[str]:
    """The pictures that come along."""
    return sorted(str(path) for path in _EXAMPLES.glob("*.jpg"))


def _read(path: Path) -> np.ndarray:
    """An upload; errors name the file but not the folder, which is the server's business."""
    try:
        with path.open("rb") as file:
            return decode_image(file, path.name, MEGAPIXELS)
    except FileNotFoundError:
        raise InputError(f"{path.name} was uploaded too long ago: choose it once more") from None
