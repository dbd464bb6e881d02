"""A network ready to use, by its name."""

from __future__ import annotations

from pathlib import Path

import torch

from expedit_sam.errors import InputError
from expedit_sam.hourglass.settings import Hourglass, fitting
from expedit_sam.model.architectures import ARCHITECTURES, Architecture, new_sam
from expedit_sam.model.block import DEFAULT_WINDOW
from expedit_sam.model.int8 import quantize, require_integer_products
from expedit_sam.model.sam import Sam
from expedit_sam.weights.download import fetch
from expedit_sam.weights.embedded import EMBEDDED_MODEL, read_embedded
from expedit_sam.weights.read import assemble, read_sam
from expedit_sam.weights.registry import CHECKPOINTS

RANDOM = "random"
PRECISIONS = ("float32", "bfloat16", "int8")
_SEED = 0


def build_sam(
    model: str = EMBEDDED_MODEL,
    *,
    checkpoint: str | Path | None = None,
    hourglass: Hourglass | str | None = None,
    device: str | torch.device | None = None,
    precision: str = "float32",
    compiled: bool = False,
) -> Sam:
    """A Segment Anything network in evaluation mode.

    ::

        sam = build_sam()                                   # the embedded vit_s, exact
        sam = build_sam("vit_h", hourglass="balanced")      # official weights, clustered tokens

    Arguments:
        model: ``vit_s``, which comes with the package, or ``vit_b``, ``vit_l``, ``vit_h``, whose
            official weights are downloaded on first use.
        checkpoint: a .pth or .safetensors file or a folder that transformers saved, to use instead,
            or ``"random"`` for untrained weights, the same at every call.
        hourglass: a speed setting or a preset's name; None runs the exact network. Later it can
            be changed as ``sam.image_encoder.hourglass``.
        device: where the network is put; None is the CPU.
        precision: of the image encoder's weights and products: "float32", "bfloat16", or "int8",
            for linear layers alone and on a CPU. The lower ones change masks a little and are
            faster where the hardware multiplies them: bfloat16 on GPUs and on CPUs with AMX, int8
            on CPUs with AVX-512 VNNI.
        compiled: let ``torch.compile`` make the image encoder's kernels when it first runs, which
            takes ten seconds or more: for many images on a GPU.

    Raises:
        InputError: no such model, device, precision or speed setting, or a checkpoint or setting
            that cannot be had or does not fit.
        TypeError: the speed setting is neither a setting nor a name.
    """
    if model not in ARCHITECTURES:
        raise InputError(f"no model is called {model!r}: choose one of {', '.join(ARCHITECTURES)}")
    if precision not in PRECISIONS:
        raise InputError(
            f"no precision is called {precision!r}: choose one of {', '.join(PRECISIONS)}"
        )
    architecture = ARCHITECTURES[model]
    # What does not fit fails before a long download.
    setting = fitting(hourglass, architecture.depth, architecture.window_size or DEFAULT_WINDOW)
    place = _available(device)
    if precision == "int8":
        if place.type != "cpu":
            raise InputError(f"int8 is for a CPU: pass device 'cpu', or bfloat16 for '{place}'")
        require_integer_products()
    if checkpoint == RANDOM:
        sam = _untrained(architecture)
    elif checkpoint is not None:
        sam = read_sam(checkpoint, model)
    elif model in CHECKPOINTS:
        sam = read_sam(fetch(CHECKPOINTS[model]), model)
    else:
        sam = assemble(read_embedded(), model, source="the embedded checkpoint")
    sam.image_encoder.hourglass = setting
    if precision == "bfloat16":
        sam.image_encoder.bfloat16()
    elif precision == "int8":
        quantize(sam.image_encoder)
    if compiled:
        from expedit_sam.model.compiled import compile_encoder  # loads much of torch

        compile_encoder(sam.image_encoder)
    return sam.to(place)


def _available(device: str | torch.device | None) -> torch.device:
    """The device, on which memory could be had; ``InputError`` if not."""
    try:
        place = torch.device("cpu" if device is None else device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:  # which of them depends on PyTorch's build
        raise InputError(f"device '{device}' is not available here: pass device 'cpu'") from error
    return place


def _untrained(architecture: Architecture) -> Sam:
    """A network with the same random weights at every call; the caller's seed is left alone."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(_SEED)
        return new_sam(architecture)
