"""Bring a classifier's graph into the form a guard is made of: opset 18 to 20, any number of images at once."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.version_converter
from onnx import ModelProto, helper, numpy_helper

from guard.errors import ModelError
from guard.graph.onnx_classifier import first_line
from guard.graph.onnx_nodes import opset, unused_name

from .read import runner

OPSETS = (18, 20)  # what export.to_onnx writes
_TOLERANCE = 1e-3  # of the largest logit: far above what another order of summation does, even in half precision


def at_opset(model: ModelProto) -> ModelProto:
    """A copy of `model` that imports an opset between 18 and 20.

    Older ones are converted by onnx. Newer ones are declared to be 20: what came later are types and attributes,
    and the checker refuses a graph that uses them.

    Raises:
        ModelError: it cannot be converted.
    """
    found = opset(model)
    oldest, newest = OPSETS
    advice = f"write the classifier with opset {oldest} to {newest}"
    converted = ModelProto()
    try:
        if found < oldest:
            converted = onnx.version_converter.convert_version(model, oldest)
        else:
            converted.CopyFrom(model)
            _declare(converted, min(found, newest))
        onnx.checker.check_model(converted)
    except Exception as error:  # the converter raises RuntimeError, ConvertError and more
        to = oldest if found < oldest else newest
        raise ModelError(f"it has opset {found}, which cannot become {to} ({first_line(error)}); {advice}") from None
    return converted


def _declare(model: ModelProto, version: int) -> None:
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", version))


def free_batch(model: ModelProto, batch: int) -> None:
    """Let a graph written for `batch` images take any number: its input, outputs, and reshapes that name `batch`."""
    graph = model.graph
    for value in [*graph.input, *graph.output]:
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
    shapes = {i.name: i for i in graph.initializer}
    shapes |= {
        n.output[0]: a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"
    }
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[1] not in shapes:
            continue
        shape = numpy_helper.to_array(shapes[node.input[1]])
        if shape.size < 2 or shape[0] != batch or 0 in shape:
            continue
        del node.attribute[:]  # allowzero, which torch writes always; without a 0 in the shape it changes nothing
        name = unused_name(graph, f"{node.input[1]}_any_batch")
        graph.initializer.append(numpy_helper.from_array(np.array([0, *shape[1:]]), name))  # 0: as many as come in
        node.input[1] = name


def same_rows(model: ModelProto, feed: dict[str, np.ndarray], output: str, expected: np.ndarray) -> str:
    """Whether `model` answers `expected` to images together and one by one: "" or what went wrong."""
    ((name, images),) = feed.items()
    try:
        run = runner(model)
        together = run(feed)[output]
        alone = np.concatenate([run({name: images[i : i + 1]})[output] for i in range(len(images))])
    except (ModelError, ValueError) as error:
        return str(error)
    for found in (together, alone):
        if found.shape != expected.shape:
            return f"its answer has shape {found.shape} instead of {expected.shape}"
        if not close(found, expected):
            return f"its answers differ by {np.abs(found - expected).max():.2g}"
    return ""


def close(found: np.ndarray, expected: np.ndarray, within: float = _TOLERANCE) -> bool:
    """Equal up to `within` of the largest number expected."""
    return bool(np.abs(found - expected).max() <= within * max(1e-3, np.abs(expected).max()))
