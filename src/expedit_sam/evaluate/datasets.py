"""Images with known regions: bsds500, COCO's format, and folders of label maps."""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from expedit_sam.errors import InputError
from expedit_sam.everything.rle import Rle, area
from expedit_sam.images import is_image_name, read_image

SMALLEST_REGION = 0.001  # of the image
# Pixels: pycocotools takes a step for each pixel of an outline, and would not end on absurd ones.
_FARTHEST = 1e6
_LONGEST = 1e7  # outline, which takes 400 MB


@dataclass(frozen=True)
class Example:
    """An image with known regions, both still in their files.

    Attributes:
        image_file: the image.
        regions_file: what its regions are read from.
        read_regions: reads all its regions as COCO RLE.
    """

    image_file: Path
    regions_file: Path
    read_regions: Callable[[], Iterable[Rle]]

    def read(self, at_most: int | None, seed: int) -> tuple[np.ndarray, list[Rle]]:
        """The HxWx3 image and its regions of at least 0.1 % of it.

        Arguments:
            at_most: how many regions; of more, some are drawn.
            seed: of the draw.

        Raises:
            InputError: a file cannot be read, or image and regions differ in size.
        """
        image = read_image(self.image_file)
        height, width = image.shape[:2]
        regions = list(self.read_regions())
        for region in regions:
            if list(region["size"]) != [height, width]:
                size = "{1}x{0}".format(*region["size"])
                raise InputError(
                    f"{self.image_file} is {width}x{height} pixels and its regions {size}: "
                    "give regions of this image"
                )
            if not _fills(region):
                raise InputError(
                    f"{self.regions_file} holds run lengths that are not {self.image_file}'s "
                    f"{width * height} pixels together: mend them"
                )
        regions = [region for region in regions if area(region) >= SMALLEST_REGION * height * width]
        if at_most is not None:
            drawn = self.random(seed).permutation(len(regions))[:at_most]
            regions = [regions[i] for i in sorted(drawn)]
        return image, regions

    @cached_property
    def key(self) -> str:
        """Identifies the example and the versions of its files, for records of measurements."""
        # Path.resolve raises at links that lead to themselves.
        files = [Path(os.path.realpath(file)) for file in (self.image_file, self.regions_file)]
        return " ".join(f"{file} {_version(file)}" for file in files)

    def random(self, seed: int) -> np.random.Generator:
        """Random numbers of this image's own, whatever the order of the images."""
        return np.random.default_rng([seed, zlib.crc32(os.fsencode(self.image_file.name))])


def find_examples(data: Path, image_folder: Path | None = None) -> list[Example]:
    """The images of a dataset, in order of their names.

    Arguments:
        data: a COCO json, or a folder of images with regions beside them: ``NAME.npz`` that holds
            ``segmentations`` (annotators x H x W region numbers, as in bsds500), or ``NAME.png``,
            a label map (a number or colour a region, 0 or black for none).
        image_folder: where the images of a json lie; None is the json's own folder.

    Raises:
        InputError: there is nothing of that kind.
    """
    if data.is_dir():
        examples = list(_in_folder(data))
        wanted = "images with NAME.npz or NAME.png of their regions beside them"
    elif data.suffix.lower() == ".json":
        examples = list(_in_coco(data, image_folder or data.parent))
        wanted = "images with annotations that are no crowds (iscrowd 0)"
    else:
        raise InputError(f"{data} is neither a folder nor a .json that exists: check the path")
    if not examples:
        raise InputError(f"{data} holds no {wanted}: add some, or name another dataset")
    return examples


def draw_examples(examples: list[Example], number: int | None, seed: int) -> list[Example]:
    """Draw ``number`` examples (None: all), in their order; a larger number adds to a smaller's."""
    drawn = np.random.default_rng(seed).permutation(len(examples))[:number]
    return [examples[i] for i in sorted(drawn)]


def _in_folder(folder: Path) -> Iterator[Example]:
    files = [file for file in sorted(folder.iterdir()) if is_image_name(file.name)]
    with_label_map = {file.stem for file in files if file.suffix.lower() != ".png"}
    for image in files:
        is_png = image.suffix.lower() == ".png"
        if is_png and image.stem in with_label_map:
            continue  # it is the label map
        for suffix, read in ((".npz", _segmentations), (".png", _label_map)):
            regions = image.with_suffix(suffix)
            if regions.is_file() and not (is_png and suffix == ".png"):
                yield Example(image, regions, partial(read, regions))
                break


def _version(file: Path) -> str:
    """Size and time of a file; "" if it is missing, an error that is left to reading it."""
    try:
        state = file.stat()
    except OSError:
        return ""
    return f"{state.st_size} {state.st_mtime_ns}"


def _segmentations(file: Path) -> Iterator[Rle]:
    try:
        with np.load(file, allow_pickle=False) as stored:
            annotators = stored["segmentations"]
        if annotators.ndim != 3:
            raise ValueError("not three dimensions")
    except Exception as error:  # a damaged file can raise anything
        raise InputError(
            f"{file} holds no 'segmentations' (annotators x H x W region numbers)"
        ) from error
    for labels in annotators:
        yield from regions_of(labels)


def _label_map(file: Path) -> Iterator[Rle]:
    try:
        with Image.open(file, formats=["PNG"]) as picture:  # EPS would start Ghostscript
            # Several channels are a colour a region, of which transparency is no part.
            several = len(picture.getbands()) > 1
            labels = np.array(picture.convert("RGB") if several else picture)
    except Exception as error:  # a damaged file can raise anything
        raise InputError(f"{file} is no label map that can be read: save it as PNG") from error
    if labels.ndim == 3:
        labels = labels @ (1, 2**8, 2**16)
    return regions_of(labels)


def regions_of(labels: np.ndarray) -> Iterator[Rle]:
    """A mask for each number but 0 in an HxW label map."""
    for number in np.unique(labels):
        if number != 0:
            yield coco.encode(np.asfortranarray(labels == number).view(np.uint8))


def _fills(rle: Rle) -> bool:
    """Whether run lengths add up to the mask's pixels; else pycocotools hangs or adds pixels."""
    pixels = rle["size"][0] * rle["size"][1]
    return _fits(rle, pixels) and not _fits(rle, pixels - 1)


def _fits(rle: Rle, pixels: int) -> bool:
    """Whether run lengths need no more than so many pixels."""
    try:
        coco.decode({"size": [pixels, 1], "counts": rle["counts"]})
    except ValueError:
        return False
    return True


def _in_coco(file: Path, image_folder: Path) -> Iterator[Example]:
    try:
        document = json.loads(file.read_bytes())  # as bytes: with or without a byte order mark
        regions: dict[int, list[Any]] = {image["id"]: [] for image in document["images"]}
        for annotation in document["annotations"]:
            if not annotation.get("iscrowd"):
                outlines = annotation.get("segmentation")
                if isinstance(outlines, list):  # annotations may have boxes alone, or lines
                    if outlines and not isinstance(outlines[0], list):  # as VIA writes one
                        outlines = [outlines]
                    outlines = [outline for outline in outlines if len(outline) >= 6]
                if outlines:
                    image_id = annotation["image_id"]
                    if image_id not in regions:
                        raise InputError(
                            f"annotation {annotation.get('id')} in {file}: there is no image "
                            f"{image_id!r}: mend or remove it"
                        )
                    regions[image_id].append(outlines)
        for image in sorted(document["images"], key=lambda image: image["file_name"]):
            if segmentations := regions[image["id"]]:
                size = image["height"], image["width"]
                read = partial(_coco_masks, file, size, segmentations)
                yield Example(image_folder / image["file_name"], file, read)
    except FileNotFoundError:
        raise InputError(f"{file} does not exist: check the path") from None
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{file} is not in COCO's format ({type(error).__name__}: {error}): "
            "it needs 'images' and 'annotations'"
        ) from error


def _coco_masks(file: Path, size: tuple[int, int], segmentations: Iterable[Any]) -> Iterator[Rle]:
    """Segmentations of COCO's three forms (polygons, run lengths, RLE) as RLE.

    Arguments:
        file: where they come from, for errors.
        size: (H, W) of the image.
        segmentations: as the json has them.
    """
    for segmentation in segmentations:
        try:
            if isinstance(segmentation, list):
                for outline in segmentation:
                    steps = np.abs(np.subtract(outline[2:], outline[:-2])).sum()
                    if not (np.abs(outline).max() <= _FARTHEST and steps <= _LONGEST):
                        raise ValueError("far outside of any image")
                yield coco.merge(coco.frPyObjects(segmentation, *size))
            elif isinstance(segmentation["counts"], list):
                yield coco.frPyObjects(segmentation, *segmentation["size"])
            else:
                # Where a number has no end, pycocotools reads and writes beyond its memory.
                if not re.fullmatch("[0-o]*[0-O]", segmentation["counts"]):
                    raise ValueError("no run lengths")
                coco.area(segmentation)  # raises if it is none
                yield segmentation
        except (ValueError, LookupError, TypeError, OverflowError) as error:
            shown = f"{segmentation!s:.60}"
            raise InputError(
                f"{file} holds a segmentation {shown} that is none: mend it"
            ) from error
