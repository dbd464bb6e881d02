"""Average the weights of checkpoints that came from one start (model soups, 2203.05482).

python training/average.py A/checkpoint.pt B/checkpoint.pt --out average.pt

A file that is named twice counts twice; packaged files count too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from packaged import read_weights, save_weights


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True, help="for --start and export.py")
    options = parser.parse_args()
    states = [read_weights(path) for path in options.checkpoints]
    average = {
        name: torch.stack([state[name].float() for state in states]).mean(dim=0)
        for name in states[0]
    }
    save_weights(average, options.out)


if __name__ == "__main__":
    main()
