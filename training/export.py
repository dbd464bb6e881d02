"""Write the packaged ``vit_s`` from a training checkpoint.

python training/export.py --data data --checkpoint training/cache/run/checkpoint.pt
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from packaged import PACKAGED, read_weights, write_packaged
from warm_start import warm_started_sam


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of DINOv2's weights")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=PACKAGED, help="file to write")
    options = parser.parse_args()

    sam = warm_started_sam(options.data / "dinov2_vits14.safetensors")
    weights = read_weights(options.checkpoint)
    unexpected = sam.load_state_dict(weights, strict=False).unexpected_keys
    if unexpected:
        raise ValueError(f"{options.checkpoint} holds weights vit_s has no place for: {unexpected}")
    write_packaged(sam, options.weights)
    content = options.weights.read_bytes()
    print(f"{options.weights}: {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
