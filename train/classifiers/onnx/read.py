"""Open an ONNX classifier file, whole and self-contained, or say why it cannot be guarded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.message import DecodeError
from onnx import ModelProto

from guard.artefact.files import MANIFEST_KEY
from guard.errors import MissingExtraError, ModelError
from guard.graph.onnx_classifier import first_line
from guard.graph.onnx_nodes import foreign_operators

from .zipmap import without_foreign_outputs, without_zipmap

_PROTOBUF_LIMIT = 2**31 - 2**24  # leaves room for what the guard adds


def read_classifier(path: Path) -> tuple[ModelProto, tuple[str, ...]]:
    """The model in `path` with external data inside, local functions inlined, and no input that is an initializer; and
    the names of its classes, where the file has them.

    Raises:
        ModelError: missing, empty, damaged, not ONNX, above protobuf's 2 GiB, a guard already, or with operators
            outside the ONNX standard.
    """
    if not path.is_file():
        raise ModelError(f"no such ONNX file: {path}")
    if not path.stat().st_size:
        raise ModelError(f"{path} is empty; write the classifier again")
    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError:
        raise ModelError(f"{path} is not an ONNX file, or was cut short; write the classifier again") from None
    if any(entry.key == MANIFEST_KEY for entry in model.metadata_props):
        raise ModelError(
            f"{path} is a guard already: load it with guard.load({str(path)!r}), give it another threshold with "
            "g.calibrate(images); another score needs the bare classifier"
        )
    if not model.graph.node:
        raise ModelError(f"{path} holds no ONNX graph; write the classifier again")
    _load_external_data(model, path)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    names = without_zipmap(model)
    without_foreign_outputs(model)
    foreign = foreign_operators(model.graph)
    if foreign:
        raise ModelError(
            f"{path} has operators outside the ONNX standard ({', '.join(foreign[:5])}), which few runtimes know; "
            "write the classifier as plain ONNX (where ONNX Runtime optimised the file: give the one it was made from)"
        )
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{path} is damaged: {first_line(error)}") from None
    constants = {initializer.name for initializer in model.graph.initializer}  # IR 3 lists them as inputs too
    inputs = [value for value in model.graph.input if value.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    _open_negative_sizes(model)
    return model, names


def _open_negative_sizes(model: ModelProto) -> None:
    """A size of -1, which Paddle2ONNX and others write for any size, as ONNX spells it."""
    for value in [*model.graph.input, *model.graph.output]:
        for i, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.HasField("dim_value") and dim.dim_value < 1:
                dim.dim_param = "batch" if i == 0 else f"size{i}"
    del model.graph.value_info[:]  # what it says of shapes is inferred again


def _load_external_data(model: ModelProto, path: Path) -> None:
    size = path.stat().st_size
    for tensor in model.graph.initializer:
        fields = {entry.key: entry.value for entry in tensor.external_data}
        size += int(fields.get("length", 0))
    if size > _PROTOBUF_LIMIT:
        raise ModelError(
            f"{path} has {size / 2**30:.1f} GiB of weights, and one ONNX file holds 2; use a smaller model"
        )
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(
            f"{path} keeps its weights in another file, which cannot be read ({first_line(error)}); "
            "put both in one folder, or write it with external_data=False"
        ) from None


def runner(model: ModelProto) -> Callable[[Mapping[str, np.ndarray]], dict[str, Any]]:
    """feed -> every output of `model` by name, computed by ONNX Runtime on the CPU, node by node as written.

    Raises:
        ModelError: from here or from the call, with what ONNX Runtime said.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "cpu") from error
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what fails is raised, and printed by whoever asked
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # a few images only

    def run(feed: Mapping[str, np.ndarray]) -> dict[str, Any]:
        try:
            outputs = session.run(None, dict(feed))
        except Exception as error:  # onnxruntime's own errors share no base class
            raise ModelError(f"ONNX Runtime cannot run it: {first_line(error)}") from None
        return dict(zip((output.name for output in session.get_outputs()), outputs, strict=True))

    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"ONNX Runtime cannot run it: {first_line(error)}") from None
    return run
