"""What the scripts of the original package and of the fork share: options, and how they end."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch

from expedit_sam.build import RANDOM, build_sam
from expedit_sam.cli.commands import INTERRUPTED, end_on_termination, print_any_name
from expedit_sam.everything import SamAutomaticMaskGenerator
from expedit_sam.hourglass.published import published_setting
from expedit_sam.hourglass.settings import Hourglass
from expedit_sam.model.architectures import ARCHITECTURES
from expedit_sam.model.sam import Sam
from expedit_sam.weights.read import identify, read_weights

# Options of everything mode: type and help. Their defaults are SamAutomaticMaskGenerator's.
_GENERATOR = {
    "points-per-side": (int, "points of the grid along each side of the image"),
    "points-per-batch": (int, "points decoded together"),
    "pred-iou-thresh": (float, "drop masks of a lower predicted IoU"),
    "stability-score-thresh": (float, "drop masks of a lower stability score"),
    "stability-score-offset": (float, "shift of the threshold for the stability score"),
    "box-nms-thresh": (float, "box IoU above which the lower of two masks is a duplicate"),
    "crop-n-layers": (int, "layers of crops of the image that are segmented too"),
    "crop-nms-thresh": (float, "as --box-nms-thresh, between crops"),
    "crop-overlap-ratio": (float, "overlap of crops over the image's shorter side"),
    "crop-n-points-downscale-factor": (int, "points a side shrink by this factor with each layer"),
    "min-mask-region-area": (int, "remove holes and islands of fewer pixels"),
}
# Options of the hourglass: type, default and help. The fork's functions have other defaults.
_HOURGLASS: dict[str, tuple[type, Any, str]] = {
    "hourglass_clustering_location": (int, 6, "block before which tokens are clustered"),
    "hourglass_num_cluster": (int, 100, "clusters of a window, a square"),
    "hourglass_cluster_iters": (int, 5, "rounds of clustering"),
    "hourglass_temperture": (float, 5e-3, "sharpness of clustering and reconstruction"),
    "hourglass_cluster_window_size": (int, 5, "width of the clusters a token may join, odd"),
    "hourglass_reconstruction_k": (int, 20, "clusters that a token is rebuilt from"),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the network, of everything mode and of the hourglass."""
    parser.add_argument(
        "--model-type",
        choices=["default", *ARCHITECTURES],
        help="the network, default being vit_h; if left out, what the checkpoint holds",
    )
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="where it runs, such as cpu or cuda (here: %(default)s)",
    )
    everything = parser.add_argument_group(
        "everything mode", "numbers left out are as in brackets, chosen for vit_h"
    )
    defaults = inspect.signature(SamAutomaticMaskGenerator).parameters
    for name, (kind, text) in _GENERATOR.items():
        default = defaults[name.replace("-", "_")].default
        text = f"{text} ({default:g})"
        everything.add_argument(f"--{name}", type=kind, default=default, metavar="N", help=text)
    hourglass = parser.add_argument_group(
        "hourglass",
        "--use_hourglass alone is the preset balanced; with numbers, as published\n"
        "(those left out are as in brackets)",
    )
    hourglass.add_argument("--use_hourglass", action="store_true", help="run on clusters of tokens")
    for name, (kind, default, text) in _HOURGLASS.items():
        names = [f"--{name}"]
        if name == "hourglass_temperture":
            names.append("--hourglass_temperature")
        text = f"{text} ({default})"
        hourglass.add_argument(*names, dest=name, type=kind, metavar="N", help=text)


def generator_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """The options as arguments of ``SamAutomaticMaskGenerator``."""
    names = [name.replace("-", "_") for name in _GENERATOR]
    return {name: getattr(options, name) for name in names}


def hourglass_setting(options: argparse.Namespace) -> Hourglass | str | None:
    """The speed setting that the options mean.

    Raises:
        ValueError: a number is out of its range.
    """
    if not options.use_hourglass:
        return None
    given = {name: getattr(options, name) for name in _HOURGLASS}
    if all(value is None for value in given.values()):
        return "balanced"
    return published_setting(
        {
            name: default if given[name] is None else given[name]
            for name, (_, default, _) in _HOURGLASS.items()
        }
    )


def read_network(options: argparse.Namespace) -> Sam:
    """The network that the options name, at its speed, on its device.

    Raises:
        InputError: the checkpoint or the device cannot be used, or the checkpoint does not fit.
        ValueError: the hourglass does not fit the network.
    """
    hourglass = hourglass_setting(options)  # before a long load
    return build_sam(
        _model(options),
        checkpoint=options.checkpoint,
        hourglass=hourglass,
        device=options.device,
    )


def exit_code(main: Callable[[], int]) -> int:
    """What a script's ``main`` returns; Ctrl+C and SIGTERM end it as they end ``expedit-sam``."""
    print_any_name()
    end_on_termination()
    try:
        return main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _model(options: argparse.Namespace) -> str:
    """The network's name; where none is given, what the checkpoint looks like."""
    model = options.model_type
    if model is None and options.checkpoint != RANDOM:
        weights = read_weights(options.checkpoint)
        model = identify({name: tuple(tensor.shape) for name, tensor in weights.items()})
    return "vit_h" if model in (None, "default") else model
