r"""SAM's prompt encoder and decoder as ONNX, with the options users of SAM know.

    python scripts/export_onnx_model.py --checkpoint sam_vit_h_4b8939.pth \
        --model-type vit_h --output decoder.onnx

`expedit-sam export` writes the image encoder too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch

from expedit_sam.appearing import appearing_together
from expedit_sam.build import build_sam
from expedit_sam.cli.original_options import exit_code
from expedit_sam.errors import InputError
from expedit_sam.export.decoder import SamOnnxModel
from expedit_sam.export.write import OPSET, check_export, quantize, write_onnx
from expedit_sam.model.architectures import ARCHITECTURES


def main() -> int:
    """Exit code 0, or 2 where anything the user gave could not be used."""
    options = _parser().parse_args()
    try:
        _export(options)
    except (ValueError, OSError) as error:  # InputError, or a setting that does not fit
        print(f"export_onnx_model.py: {error}", file=sys.stderr)
        return 2
    return 0


def _export(options: argparse.Namespace) -> None:
    check_export("onnx", "int8" if options.quantize_out else "float32", options.opset)
    print("Loading model...", flush=True)
    model = "vit_h" if options.model_type == "default" else options.model_type
    graph = SamOnnxModel(
        build_sam(model, checkpoint=options.checkpoint),
        options.return_single_mask,
        options.use_stability_score,
        options.return_extra_metrics,
    )
    if options.gelu_approximate:
        for module in graph.modules():
            if isinstance(module, torch.nn.GELU):
                module.approximate = "tanh"
    print(f"Exporting onnx model to {options.output}...", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        traced = Path(scratch, "decoder.onnx")
        write_onnx(graph, traced, options.opset)
        _copy(traced, options.output)
        if options.quantize_out:
            print(f"Quantizing model and writing to {options.quantize_out}...", flush=True)
            quantized = quantize(traced, Path(scratch, "quantized.onnx"), per_channel=False)
            _copy(quantized, options.quantize_out)
    print("Done!")


def _copy(source: Path, target: Path) -> None:
    """Copy a file, which appears complete or not at all."""
    if target.is_dir():
        raise InputError(f"{target} is a folder: name a file")
    with appearing_together(target.parent) as folder:
        (folder / target.name).write_bytes(source.read_bytes())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--checkpoint", required=True, help="a .pth or .safetensors file")
    add("--output", type=Path, required=True, help="the ONNX file to write")
    add(
        "--model-type",
        required=True,
        choices=["default", *ARCHITECTURES],
        help="the network, default being vit_h",
    )
    add("--return-single-mask", action="store_true", help="only the best mask of each prompt")
    add("--opset", type=int, default=OPSET, help="version of ONNX's operators (%(default)s)")
    add("--quantize-out", type=Path, help="write it with 8-bit weights too, to this file")
    add("--gelu-approximate", action="store_true", help="GELU with tanh instead of erf")
    add("--use-stability-score", action="store_true", help="score masks by their stability")
    add("--return-extra-metrics", action="store_true", help="stability scores and areas too")
    return parser


if __name__ == "__main__":
    sys.exit(exit_code(main))
