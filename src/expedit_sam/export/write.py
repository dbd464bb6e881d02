"""A whole network to a folder: encoder, decoder and what they need to know about an image."""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from expedit_sam.appearing import HIDDEN, appearing_together
from expedit_sam.errors import InputError
from expedit_sam.export.decoder import SamOnnxModel
from expedit_sam.export.encoder import EncoderGraph, average_pooling
from expedit_sam.export.graphs import import_openvino
from expedit_sam.export.metadata import DIGEST_KEY, FORMATS, PRECISIONS, Metadata, graph_path
from expedit_sam.extras import require
from expedit_sam.model.int8 import require_float
from expedit_sam.model.sam import Sam
from expedit_sam.weights.digest import weights_digest

OPSET = 17
_OPSETS = range(13, 21)  # unflatten came with 13; the exporter ends at 20
_BYTES_PER_FILE = 2**31 - 2**20  # protobuf's limit; larger weights go to a file beside the graph


def export_sam(
    sam: Sam,
    folder: str | os.PathLike[str],
    *,
    model: str,
    format: str = "onnx",
    precision: str = "float32",
    opset: int = OPSET,
    return_single_mask: bool = False,
    use_stability_score: bool = False,
    return_extra_metrics: bool = False,
) -> list[Path]:
    """Write a network at the speed it is set to, for ``expedit_sam.export.runtime``.

    ::

        export_sam(build_sam("vit_b", hourglass="balanced"), "exported", model="vit_b")

    Arguments:
        sam: the network.
        folder: for ``encoder``, ``decoder`` and ``metadata.json``; made if it is missing.
        model: the network's name, which the metadata keeps.
        format: "onnx" or "openvino".
        precision: of the encoder: "float32", "float16", or "int8", which quantizes weights and,
            as it runs, activations of matrix products (ONNX only).
        opset: version of ONNX's operators, 13 to 20.
        return_single_mask, use_stability_score, return_extra_metrics: see ``SamOnnxModel``.

    Returns:
        the files written. They appear together, or none does.

    Raises:
        InputError: an argument is unknown, a package is missing, the network cannot be written in
            this way, or the folder cannot be written to.
    """
    check_export(format, precision, opset)
    require_float(sam)
    digest = weights_digest(sam)
    decoder = SamOnnxModel(sam, return_single_mask, use_stability_score, return_extra_metrics)
    half = precision == "float16" and format == "onnx"
    encoder = EncoderGraph(sam.image_encoder, torch.float16 if half else torch.float32)
    with (
        appearing_together(Path(folder)) as place,
        # On the disk of the folder, which must have room for everything anyway.
        tempfile.TemporaryDirectory(dir=folder, prefix=HIDDEN) as scratch,
    ):
        for part, graph in (("encoder", encoder), ("decoder", decoder)):
            traced = Path(scratch, f"{part}.onnx")
            write_onnx(graph, traced, opset)
            if part == "encoder" and precision == "int8":
                traced = quantize(traced, traced.with_suffix(".int8.onnx"), per_channel=True)
            if format == "onnx":
                _save_onnx(traced, graph_path(place, part, format), digest)
            else:
                compress = precision == "float16" and part == "encoder"
                _save_openvino(traced, graph_path(place, part, format), digest, compress)
        _metadata(sam, model, format, precision, digest).write(place)
        return sorted(Path(folder, path.name) for path in place.iterdir())


def write_onnx(graph: EncoderGraph | SamOnnxModel, path: Path, opset: int = OPSET) -> None:
    """Trace an encoder or decoder and write it as ONNX.

    Raises:
        InputError: the exporter cannot write it with this opset.
    """
    inputs, outputs, axes = _interface(graph)
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        # Of shapes that the trace fixes, as they should be; and of this exporter's deprecation: the
        # newer one cannot take the image's size as an input.
        warnings.simplefilter("ignore")
        stack.enter_context(average_pooling(opset))
        try:
            torch.onnx.export(
                graph.eval(),
                tuple(inputs.values()),
                str(path),
                dynamo=False,
                opset_version=opset,
                input_names=list(inputs),
                output_names=outputs,
                dynamic_axes=axes,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"this network cannot be written with opset {opset} ({reason}): "
                f"choose opset {OPSET}, or another speed setting"
            ) from error


def quantize(source: Path, target: Path, per_channel: bool) -> Path:
    """Write an ONNX file anew with the weights of its matrix products as 8-bit integers.

    Arguments:
        source: the file to read.
        target: the file to write.
        per_channel: one scale for each output channel instead of one for each weight tensor;
            onnxruntime runs that only where all weights are matrices, as the encoder's are.

    Returns:
        ``target``.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)  # advice for graphs that were not simplified
    try:
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul"],
            per_channel=per_channel,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    finally:
        logging.disable(logging.NOTSET)
    return target


def check_export(format: str, precision: str, opset: int) -> None:
    """Raise ``InputError`` if this export is unknown, or needs a package that is not there."""
    for name, value, known in (
        ("format", format, tuple(FORMATS)),
        ("precision", precision, PRECISIONS),
    ):
        if value not in known:
            raise InputError(f"no {name} is called {value!r}: choose one of {', '.join(known)}")
    if opset not in _OPSETS:
        raise InputError(
            f"opset {opset} cannot be written: choose {OPSET}, or {_OPSETS[0]} to {_OPSETS[-1]}"
        )
    if format == "openvino" and precision == "int8":
        raise InputError("int8 can be written as onnx only: choose --format onnx, or float16")
    require("this export", "onnx", "onnx")
    if precision == "int8":
        require("this export", "onnx", "onnxruntime")
    if format == "openvino":
        require("this export", "openvino", "openvino")


def _interface(
    graph: EncoderGraph | SamOnnxModel,
) -> tuple[dict[str, Tensor], list[str], dict[str, dict[int, str]]]:
    """Example inputs and names of inputs, outputs and dynamic axes."""
    if isinstance(graph, EncoderGraph):
        side = graph.encoder.img_size
        return {"x": torch.zeros(1, 3, side, side)}, ["image_embeddings"], {}
    encoder = graph.model.prompt_encoder
    coords = torch.tensor([[[10.0, 20.0], [30.0, 5.0], [4.0, 8.0], [40.0, 50.0], [0.0, 0.0]]])
    inputs = {
        "image_embeddings": torch.zeros(1, encoder.embed_dim, *encoder.image_embedding_size),
        "point_coords": coords,
        "point_labels": torch.tensor([[1.0, 0.0, 2.0, 3.0, -1.0]]),
        "mask_input": torch.zeros(1, 1, *encoder.mask_input_size),
        "has_mask_input": torch.ones(1),
        "orig_im_size": torch.tensor([1500.0, 2250.0]),
    }
    outputs = ["masks", "iou_predictions", "low_res_masks"]
    if graph.return_extra_metrics:
        outputs[2:2] = ["stability_scores", "areas"]
    points = {1: "num_points"}
    return inputs, outputs, {"point_coords": points, "point_labels": points}


def _save_onnx(source: Path, target: Path, digest: str) -> None:
    """Give an ONNX file its digest; weights beyond protobuf's limit go to a file beside it."""
    import onnx

    model = onnx.load(source)
    onnx.helper.set_model_props(model, {DIGEST_KEY: digest})
    onnx.save_model(
        model,
        target,
        save_as_external_data=model.ByteSize() > _BYTES_PER_FILE,
        location=f"{target.name}.data",
    )


def _save_openvino(source: Path, target: Path, digest: str, compress: bool) -> None:
    openvino = import_openvino()
    model = openvino.convert_model(source)
    model.set_rt_info(digest, DIGEST_KEY)
    try:
        openvino.save_model(model, target, compress_to_fp16=compress)
    except RuntimeError as error:  # "iostream error" is all it says of a full disk
        raise OSError(f"no space left? OpenVINO says {' '.join(str(error).split())}") from error


def _metadata(sam: Sam, model: str, format: str, precision: str, digest: str) -> Metadata:
    hourglass = sam.image_encoder.hourglass
    encoder = sam.prompt_encoder
    return Metadata(
        format=format,
        model=model,
        weights=digest,
        hourglass=None if hourglass is None else asdict(hourglass),
        precision=precision,
        img_size=sam.image_encoder.img_size,
        pixel_mean=tuple(sam.pixel_mean.flatten().tolist()),
        pixel_std=tuple(sam.pixel_std.flatten().tolist()),
        image_format=sam.image_format,
        mask_threshold=sam.mask_threshold,
        embedding_shape=(encoder.embed_dim, *encoder.image_embedding_size),
        mask_input_size=encoder.mask_input_size,
    )
