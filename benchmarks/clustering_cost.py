"""What token clustering and reconstruction cost, as a share of the encoder time they save.

    python -m benchmarks.clustering_cost [--model vit_b] [--repeats 9]

The image is noise and the weights are random, neither of which changes the work. The exact encoder,
the expedited one, and clustering and reconstruction by themselves take turns; the figures are
medians. Reconstruction makes the neck's first projection too: what that takes in the exact encoder
is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from expedit_sam import Hourglass
from expedit_sam.allocator import keep_freed_memory
from expedit_sam.hourglass.contraction import contract
from expedit_sam.hourglass.settings import PRESETS
from expedit_sam.model.architectures import ARCHITECTURES, new_sam
from expedit_sam.model.block import clustering_window
from expedit_sam.model.image_encoder import first_tokens

SETTINGS = {name: setting for name, setting in PRESETS.items() if setting} | {
    "location=6,clusters=81": Hourglass(location=6, clusters=81)
}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=list(ARCHITECTURES), default="vit_s")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    keep_freed_memory()
    encoder = new_sam(ARCHITECTURES[options.model]).eval().image_encoder
    pixels = torch.randn(1, 3, encoder.img_size, encoder.img_size)
    # As blocks leave them: the patch embedding has channels first in memory.
    tokens = first_tokens(encoder, pixels, 0).contiguous()
    print(f"{options.model}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}\n")
    print("| setting | saved, ms | clustering and reconstruction, ms | share |")
    print("| --- | --- | --- | --- |")
    window = clustering_window(encoder.blocks)
    projection = encoder.neck[0].weight.flatten(1)

    def project() -> None:
        encoder.neck[0](tokens.permute(0, 3, 1, 2))

    for name, setting in SETTINGS.items():

        def there_and_back(setting: Hourglass = setting) -> None:
            contraction = contract(tokens, setting, window)
            contraction.expand(contraction.clusters, projection)

        def encode(hourglass: Hourglass | None = setting) -> None:
            encoder.hourglass = hourglass
            encoder(pixels)

        exact, expedited, both, projecting = medians(
            [lambda: encode(None), encode, there_and_back, project], options.repeats
        )
        saved, cost = exact - expedited, both - projecting
        print(f"| {name} | {1e3 * saved:.0f} | {1e3 * cost:.1f} | {100 * cost / saved:.1f} % |")


def medians(works: list[Callable[[], None]], repeats: int) -> list[float]:
    """Seconds of each, taking turns after one round unseen."""
    seconds: list[list[float]] = [[] for _ in works]
    for repeat in range(repeats + 1):
        for work, taken in zip(works, seconds, strict=True):
            started = time.perf_counter()
            work()
            if repeat:
                taken.append(time.perf_counter() - started)
    return [statistics.median(taken) for taken in seconds]


if __name__ == "__main__":
    main()
