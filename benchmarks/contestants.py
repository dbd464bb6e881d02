"""The networks that ``peers.py`` times, each in a process of its own.

A contestant is a dict from a stage to its runs by name; a run takes nothing and returns an array,
or the records of everything mode.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Collection
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).parent.parent
OPENVINO = Path(__file__).parent / ".openvino"
sys.path[:0] = [str(ROOT), str(OPENVINO)]

from expedit_sam import (  # noqa: E402
    Hourglass,
    SamAutomaticMaskGenerator,
    SamPredictor,
    build_sam,
    expedite,
)
from expedit_sam.allocator import keep_freed_memory  # noqa: E402
from expedit_sam.evaluate.memory import PeakMemory  # noqa: E402
from expedit_sam.hourglass.published import DEFAULTS, published_setting  # noqa: E402
from expedit_sam.images import read_image  # noqa: E402
from expedit_sam.model.sam import Sam  # noqa: E402

PHOTO = ROOT / "docs" / "images" / "coffee.jpg"
PHOTO_SIZE = (1200, 1800)
FORK_SETTING = {"hourglass_clustering_location": 6, "hourglass_num_cluster": 81}

Runs = dict[str, Callable[[], Any]]


def original(options: argparse.Namespace) -> dict[str, Runs]:
    from tests.original import original_modules

    package = original_modules()[""]
    sam = package.sam_model_registry[options.model](checkpoint=options.checkpoint).eval()
    generator = package.SamAutomaticMaskGenerator(sam, **_everything_settings(options))
    return {
        "encoder": {"original": lambda: sam.image_encoder(_pixels())},
        "decoder": {"original": lambda: _decode(sam)},
        "click": {"original": _click(package.SamPredictor(sam))},
        "everything": {"original": lambda: generator.generate(photo())},
    }


def transformers(options: argparse.Namespace) -> dict[str, Runs]:
    theirs = transformers_encoder(build_sam(options.model, checkpoint=options.checkpoint))
    return {"encoder": {"transformers": lambda: theirs(_pixels()).last_hidden_state}}


def transformers_encoder(ours: Sam) -> Any:
    """Transformers' image encoder with our weights."""
    from transformers import SamVisionConfig
    from transformers.models.sam.modeling_sam import SamVisionEncoder

    from expedit_sam.weights.transformers_format import to_transformers

    encoder: Any = ours.image_encoder
    config = SamVisionConfig(
        hidden_size=encoder.pos_embed.shape[-1],
        num_hidden_layers=len(encoder.blocks),
        num_attention_heads=encoder.blocks[0].attn.num_heads,
        global_attn_indexes=[i for i, b in enumerate(encoder.blocks) if b.window_size == 0],
        mlp_dim=encoder.blocks[0].mlp.lin1.out_features,
        attn_implementation="sdpa",
    )
    theirs = SamVisionEncoder(config).eval()
    prefix = "vision_encoder."
    state = to_transformers(ours.state_dict())
    theirs.load_state_dict(
        {name.removeprefix(prefix): w for name, w in state.items() if name.startswith(prefix)}
    )
    return theirs


def openvino(options: argparse.Namespace) -> dict[str, Runs]:
    return {"encoder": {"OpenVINO on the original": _openvino_encoder(options, "f32")}}


def openvino_bfloat16(options: argparse.Namespace) -> dict[str, Runs]:
    # What OpenVINO takes by itself on CPUs that multiply it in hardware.
    return {"encoder": {"OpenVINO on the original, bfloat16": _openvino_encoder(options, "bf16")}}


def _openvino_encoder(options: argparse.Namespace, precision: str) -> Callable[[], np.ndarray]:
    import openvino

    compiled = openvino.Core().compile_model(
        _graph(options, "xml"),
        "CPU",
        {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": options.threads},
    )
    pixels = _pixels().numpy()
    return lambda: compiled(pixels)[0]


def onnx_runtime(options: argparse.Namespace) -> dict[str, Runs]:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    session = onnxruntime.InferenceSession(
        _graph(options, "onnx"), settings, providers=["CPUExecutionProvider"]
    )
    pixels = {session.get_inputs()[0].name: _pixels().numpy()}
    return {"encoder": {"ONNX Runtime on the original": lambda: session.run(None, pixels)[0]}}


def convert(options: argparse.Namespace, contestants: Collection[str]) -> None:
    """Write the original's encoder, beside the checkpoint, for those of other runtimes to read."""
    for_onnx, for_openvino = "onnx_runtime" in contestants, has_openvino(contestants)
    if not (for_onnx or for_openvino):
        return
    from tests.original import original_modules

    registry = original_modules()[""].sam_model_registry
    encoder = registry[options.model](checkpoint=options.checkpoint).image_encoder.eval()
    warnings.simplefilter("ignore")  # of tracing: sizes become constants, which is what we want
    if for_onnx:
        # By the newer exporter, which needs another package, it was no faster.
        torch.onnx.export(encoder, (_pixels(),), _graph(options, "onnx"), dynamo=False)
    if for_openvino:
        import openvino

        # Of a fixed size, for which OpenVINO has faster kernels than for any size.
        converted = openvino.convert_model(
            encoder, example_input=_pixels(), input=list(_pixels().shape)
        )
        openvino.save_model(converted, _graph(options, "xml"), compress_to_fp16=False)


def has_openvino(contestants: Collection[str]) -> bool:
    return not {"openvino", "openvino_bfloat16"}.isdisjoint(contestants)


def _graph(options: argparse.Namespace, suffix: str) -> Path:
    return Path(options.checkpoint).with_suffix(f".{suffix}")


def ours(options: argparse.Namespace) -> dict[str, Runs]:
    sam = build_sam(options.model, checkpoint=options.checkpoint)
    generator = SamAutomaticMaskGenerator(sam, **_everything_settings(options))

    def everything(setting: str | None) -> Callable[[], list[dict]]:
        expedite(sam, setting)
        return generator.generate(photo())

    fork = published_setting({**DEFAULTS, **FORK_SETTING})
    presets = ("quality", "balanced", "fast")
    return {
        "encoder": {
            "ours, exact": _encode(sam, None),
            "ours, the fork's location 6 and 81 clusters": _encode(sam, fork),
            **{f"ours, {name}": _encode(sam, name) for name in presets},
        },
        "decoder": {"ours, exact": lambda: _decode(sam)},
        "click": {"ours, exact": _click(SamPredictor(sam))},
        "everything": {
            "ours, exact": lambda: everything(None),
            "ours, balanced": lambda: everything("balanced"),
        },
    }


def ours_bfloat16(options: argparse.Namespace) -> dict[str, Runs]:
    return _in_lower_precision(options, "bfloat16")


def ours_int8(options: argparse.Namespace) -> dict[str, Runs]:
    return _in_lower_precision(options, "int8")


def _in_lower_precision(options: argparse.Namespace, precision: str) -> dict[str, Runs]:
    sam = build_sam(options.model, checkpoint=options.checkpoint, precision=precision)
    keep_freed_memory()  # as a predictor does
    names = ("exact", "balanced")
    return {"encoder": {f"ours, {name}, {precision}": _encode(sam, name) for name in names}}


LOWER_PRECISION = {f.__name__: f for f in (openvino_bfloat16, ours_bfloat16, ours_int8)}
CONTESTANTS = {
    f.__name__: f for f in (original, transformers, onnx_runtime, openvino, ours)
} | LOWER_PRECISION


def serve(options: argparse.Namespace) -> None:
    """Time a run for each line of standard input: stage, name and a file for what it returns."""
    torch.set_num_threads(options.threads)
    memory = PeakMemory(torch.device("cpu"))
    with torch.inference_mode():
        runs = CONTESTANTS[options.worker](options)
        for line in sys.stdin:
            stage, name, file = json.loads(line)
            started = time.perf_counter()
            result = runs[stage][name]()
            seconds = time.perf_counter() - started
            if file:
                _write(result, Path(file))
            print(json.dumps({"seconds": seconds, "peak_memory": memory.bytes()}), flush=True)


def _write(result: Any, file: Path) -> None:
    if isinstance(result, list):
        file.write_text(json.dumps([record["segmentation"] for record in result]))
    else:
        with file.open("wb") as opened:
            np.save(opened, np.asarray(result))


@lru_cache
def _pixels() -> Tensor:
    return torch.randn(1, 3, 1024, 1024, generator=torch.Generator().manual_seed(0))


def _encode(sam: Sam, setting: Hourglass | str | None) -> Callable[[], Tensor]:
    return lambda: expedite(sam, setting).image_encoder(_pixels())


def _decode(sam: Any) -> Tensor:
    """Low-res logits of 64 one-point prompts."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 256, 64, 64, generator=generator)
    points = torch.rand(64, 1, 2, generator=generator) * 1024
    sparse, dense = sam.prompt_encoder((points, torch.ones(64, 1)), None, None)
    return sam.mask_decoder(image, sam.prompt_encoder.get_dense_pe(), sparse, dense, True)[0]


def _click(predictor: Any) -> Callable[[], np.ndarray]:
    """Masks of a click on an image that has been encoded."""
    height, width = PHOTO_SIZE
    # As after set_image, without the wait.
    predictor.features = torch.randn(1, 256, 64, 64, generator=torch.Generator().manual_seed(0))
    predictor.is_image_set, predictor.original_size = True, (height, width)
    predictor.input_size = predictor.transform.get_preprocess_shape(height, width, 1024)
    return lambda: predictor.predict(np.array([[700.0, 500.0]]), np.array([1]))[0]


def _everything_settings(options: argparse.Namespace) -> dict[str, Any]:
    # Duplicates stay, so that there are masks to compare.
    return json.loads(options.thresholds) | {"box_nms_thresh": 1.0, "output_mode": "coco_rle"}


def photo() -> np.ndarray:
    from PIL import Image

    height, width = PHOTO_SIZE
    return np.asarray(Image.fromarray(read_image(PHOTO)).resize((width, height)))
