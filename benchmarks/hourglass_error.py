"""How far each hourglass setting moves what the image encoder makes, without any labels.

    python benchmarks/hourglass_error.py FOLDER [--images 10]

For each setting: the relative error |x - exact x| / |exact x| of the last tokens and of the image
embedding that the neck makes of them; means over the images, for the embedded vit_s. Lower is
better.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from expedit_sam import Hourglass, SamPredictor, build_sam, expedite
from expedit_sam.hourglass.written import parse_setting
from expedit_sam.images import find_images, read_image

OURS = Hourglass(location=3, clusters=81)
PUBLISHED = parse_setting("published:location=3,clusters=81")
SCALE_FREE = replace(PUBLISHED, scale_free=True, temperature=10.0)
SETTINGS = {
    "published: temperature 0.01": PUBLISHED,
    "scale-free temperature, 10": SCALE_FREE,
    "and clusters count by their size": replace(SCALE_FREE, size_aware=True),
    "and temperature 15": replace(SCALE_FREE, size_aware=True, temperature=15.0),
    "and details are kept": replace(OURS, mean_values=False),
    "and values are means: the default": OURS,
    "default, temperature 30": replace(OURS, temperature=30.0),
    "default, 2 iterations": replace(OURS, iterations=2),
    "default, 10 iterations": replace(OURS, iterations=10),
    "default, clusters count as one": replace(OURS, size_aware=False),
    "default, from block 6": replace(OURS, location=6),
    "the same without details": replace(OURS, location=6, keep_detail=False),
    "the same without mean values": replace(OURS, location=6, mean_values=False),
    "published, from block 6": replace(PUBLISHED, location=6),
}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=10)
    options = parser.parse_args()

    predictor = SamPredictor(build_sam())
    errors: dict[str, list[tuple[float, float]]] = {name: [] for name in SETTINGS}
    for path in find_images([options.folder])[: options.images]:
        image = read_image(path)
        exact = tokens_and_embedding(predictor, image, None)
        for name, setting in SETTINGS.items():
            moved = tokens_and_embedding(predictor, image, setting)
            errors[name].append((error(moved[0], exact[0]), error(moved[1], exact[1])))
    print("| setting, 81 clusters from block 3 of 12 | error of last tokens | of the embedding |")
    print("| --- | --- | --- |")
    for name, values in errors.items():
        of_tokens, of_embedding = np.mean(values, axis=0)
        print(f"| {name} | {of_tokens:.3f} | {of_embedding:.3f} |")


def error(x: Tensor, exact: Tensor) -> float:
    """Norm of the difference over the norm of ``exact``."""
    return ((x - exact).norm() / exact.norm()).item()


def tokens_and_embedding(
    predictor: SamPredictor, image: np.ndarray, setting: Hourglass | None
) -> tuple[Tensor, Tensor]:
    """The encoder's last tokens, for which its neck is taken out, and the image embedding."""
    encoder = expedite(predictor.model, setting).image_encoder
    predictor.set_image(image)
    embedding = predictor.get_image_embedding()
    neck, encoder.neck = encoder.neck, nn.Sequential()
    predictor.set_image(image)
    encoder.neck = neck
    return predictor.get_image_embedding(), embedding


if __name__ == "__main__":
    main()
