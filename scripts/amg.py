r"""Masks of everything in images, with the options that users of SAM know.

    python scripts/amg.py --checkpoint sam_vit_h_4b8939.pth \
        --input photos --output masks

For each image the output gets a folder of PNGs with a metadata.csv, or a json
of COCO RLE.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from expedit_sam import SamAutomaticMaskGenerator
from expedit_sam.appearing import prepare_folder
from expedit_sam.cli.everything import image_fault, is_disk_full
from expedit_sam.cli.original_format import write_folder, write_json
from expedit_sam.cli.original_options import (
    add_options,
    exit_code,
    generator_arguments,
    read_network,
)
from expedit_sam.errors import InputError, one_line
from expedit_sam.images import find_images, is_image_name, read_image
from expedit_sam.results import result_names


def main() -> int:
    """Exit code 0, or 2 where anything the user gave could not be used."""
    options = _parser().parse_args()
    try:
        images = _targets(options.input)
        prepare_folder(options.output)
        print("Loading model...", flush=True)
        generator = SamAutomaticMaskGenerator(
            read_network(options),
            output_mode="coco_rle" if options.convert_to_rle else "binary_mask",
            **generator_arguments(options),
        )
    except (ValueError, OSError) as error:  # InputError, or a setting that does not fit
        return _fault(error)
    failed = 0
    for image, name in zip(images, result_names(images), strict=True):
        print(one_line(f"Processing '{image}'..."), flush=True)
        try:
            _write_masks(generator, image, options.output / name)
        except Exception as error:
            failed = _fault(image_fault(error, image))
            if is_disk_full(error):
                return failed
    print("Done!")
    return failed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", type=Path, required=True, help="an image, or a folder of images")
    parser.add_argument("--output", type=Path, required=True, help="a folder for the results")
    parser.add_argument("--checkpoint", required=True, help="a .pth or .safetensors file")
    parser.add_argument(
        "--convert-to-rle", action="store_true", help="write json of COCO RLE instead of PNGs"
    )
    add_options(parser)
    return parser


def _targets(path: Path) -> list[Path]:
    """The image itself, or those in the folder but not in its subfolders."""
    if not path.is_dir():
        return find_images([path])
    images = [
        file for file in sorted(path.iterdir()) if is_image_name(file.name) and not file.is_dir()
    ]
    if not images:
        raise InputError(f"no images directly in {path}; subfolders are not searched: name one")
    return images


def _write_masks(generator: SamAutomaticMaskGenerator, image: Path, target: Path) -> None:
    as_json = generator.output_mode == "coco_rle"
    if not as_json and target.exists():
        raise InputError(f"{target} exists already: remove it, or choose another --output")
    masks = generator.generate(read_image(image))
    if as_json:
        write_json(masks, target.with_name(f"{target.name}.json"))
    else:
        write_folder(masks, target)


def _fault(error: Exception) -> int:
    print(f"amg.py: {one_line(error)}", file=sys.stderr, flush=True)
    return 2


if __name__ == "__main__":
    sys.exit(exit_code(main))
