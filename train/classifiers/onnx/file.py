"""An ONNX classifier file: its logits, penultimate features and last layer are found in the graph.

    file --read--> whole graph --adapt--> opset 18 to 20, any batch --head--> logits, features, weights

What is read from the graph is checked by running it: images together and one by one must get the file's own answers,
and the last layer's weights count only where they turn the features into the logits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from guard.data import ImageData, load
from guard.data.class_names import names_in_order
from guard.errors import ModelError, UnknownNameError
from guard.graph.answers import BINARY
from guard.graph.onnx_classifier import OnnxClassifier
from guard.graph.onnx_nodes import ancestors, producers, prune, unused_name
from guard.heads import LastLayer
from guard.manifest import Preprocess
from guard.requests import FitRequest
from guard.scores.base import Need

from ..base import GivenClassifier
from .adapt import at_opset, close, free_batch, same_rows
from .answer import answer_of, logits_of
from .head import LinearLayer, both_classes, find_linear_layer
from .input import Images, image_input, normalisation_for, preprocess_for
from .read import read_classifier, runner
from .suspects import check_nodes, suspects

log = logging.getLogger("ood_guard")


def of_onnx_file(path: Path, request: FitRequest) -> GivenClassifier:
    """The classifier in an ONNX file, ready to be guarded; torch computes nothing of it.

    Args:
        path: one image input, float (normalised) or uint8 (pixels), NCHW or NHWC, any size of batch.
        request: its ``features`` name a tensor of the graph; its data is opened only where the graph leaves its size or
            its output open.

    Raises:
        ModelError: it is not such a file; the message says what to write instead.
    """
    opened = open_graph(path, request)
    normalisation = normalisation_for(opened.images, request)
    return GivenClassifier(
        opened.classifier,
        opened.preprocess,
        normalisation,
        path.stem,
        data=opened.data,
        class_names=opened.class_names,
        outputs=opened.outputs,
    )


class Opened(NamedTuple):
    """A classifier and its input; `data` where it had to be loaded."""

    classifier: OnnxClassifier
    images: Images
    preprocess: Preprocess
    data: ImageData | None
    class_names: tuple[str, ...]
    outputs: str  # what its logits still are: the ones in front of a softmax are logits


def open_graph(path: Path, request: FitRequest) -> Opened:
    """The part of `of_onnx_file` that asks nothing about pixel values."""
    model, names = read_classifier(path)
    try:
        images = image_input(model, request.in_chans)
        preprocess, source = preprocess_for(images, request)

        def classes() -> int:
            if request.class_names is not None:
                return len(names_in_order(request.class_names))
            if request.data is None:  # nobody gave any, to ask what the model shows
                return 0
            return len((source or load(request.data, preprocess=preprocess, workers=request.workers)).class_names)

        noise = images.noise(2 * (images.batch or 1), preprocess)
        model, output = _plain(model, images, noise, classes, request.outputs)
        classifier, taken_for = _shown(model, output, request, images, noise, path.name)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    outputs = taken_for or ("logits" if request.outputs == "logits" else "auto")
    return Opened(classifier, images, preprocess, source, names, outputs)


def _plain(
    model: ModelProto, images: Images, noise: np.ndarray, classes: Callable[[], int], outputs: str
) -> tuple[ModelProto, str]:
    """The graph with one output and its name, any number of images at once, in an opset that a guard can have."""
    chunk = images.batch or 1
    run = runner(model)
    before = [run({images.name: noise[i : i + chunk]}) for i in range(0, len(noise), chunk)]
    output = answer_of(model, before[0], chunk, classes, outputs)
    _keep(model, [output])
    check_nodes(model)
    model = at_opset(model)
    if images.batch is not None:
        free_batch(model, images.batch)
    wrong = same_rows(model, {images.name: noise}, output, np.concatenate([outputs[output] for outputs in before]))
    if wrong and (over_batch := suspects(model.SerializeToString())):
        raise ModelError(
            f"an image's answer depends on the images beside it ({wrong}): {over_batch} computes over the batch; write "
            "the classifier with an operator that reads each image alone"
        )
    if wrong:
        size = "" if images.batch is None else f", written for batches of {images.batch},"
        raise ModelError(
            f"the graph{size} does not answer images together as one by one ({wrong}); write it with a dynamic batch, "
            "e.g. torch.onnx.export(..., dynamo=True, dynamic_shapes=({0: 'batch'},))"
        )
    return model, output


def _keep(model: ModelProto, names: list[str]) -> None:
    """Make `names` the graph's outputs and remove all that they do not need."""
    graph = model.graph
    known = {value.name: value for value in graph.output}
    outputs = [known.get(name, helper.make_empty_tensor_value_info(name)) for name in names]
    del graph.output[:], graph.value_info[:], graph.quantization_annotation[:], model.metadata_props[:]
    graph.output.extend(outputs)
    prune(graph)


def _shown(
    model: ModelProto, output: str, request: FitRequest, images: Images, noise: np.ndarray, file: str
) -> tuple[OnnxClassifier, str]:
    """The classifier of a graph whose outputs become logits (N, C) and, where there are such, features (N, D); and what
    the logits were taken for (`guard.graph.answers`), or ""."""
    features = request.features
    logits, taken_for = logits_of(model, output, {images.name: noise}, request.outputs, file)
    layer = find_linear_layer(model, logits)
    near = _near(model, logits)
    if features is not None and (features not in producers(model.graph) or features == logits):
        raise UnknownNameError("tensor", features, near, "The last ones before the logits are listed.")
    shown = [logits, features or (layer and layer.features)]
    names = [name for name in shown if name]
    _keep(model, names)
    seen = runner(model)({images.name: noise})
    matrices = [_as_logits(model, logits, seen[logits], taken_for)]
    matrices += [_as_vector(model, name, seen[name]) for name in names[1:]]
    _keep(model, matrices)
    values = list(runner(model)({images.name: noise}).values())
    layer = layer and both_classes(layer)
    _declare_shapes(model, images, noise, [value.shape[1] for value in values])
    lacks: dict[Need, str] = {}
    if layer is None:
        lacks["weights"] = f"no linear layer with constant weights gives {logits!r} in {file}"
        lacks["features"] = f"{lacks['weights']}; name a tensor with features=, e.g. {', '.join(near[:5])}"
    elif not _gives(layer, values[1], values[0]):
        lacks["weights"] = f"in {file} the last linear layer does not turn {names[1]!r} into {logits!r}"
    if features is not None:
        lacks.pop("features", None)
    last_layer = None
    if layer is not None and "weights" not in lacks:
        last_layer = LastLayer(_tensor(layer.weight), _tensor(layer.bias))
    graph = torch.from_numpy(np.frombuffer(model.SerializeToString(), np.uint8).copy())
    width = values[1].shape[1] if len(values) > 1 else 0
    return OnnxClassifier(graph, last_layer, width, lacks, file), taken_for


def _tensor(value: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(value, dtype=np.float32, order="C"))


def _near(model: ModelProto, logits: str, count: int = 20) -> list[str]:
    """Tensors that could be features, the last before the logits first."""
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in inferred}
    nodes = reversed(ancestors(model.graph, {logits}))
    names = [name for node in nodes if node.op_type != "Constant" for name in node.output if name not in ("", logits)]
    return [name for name in names if ranks.get(name, 4) in (2, 3, 4)][:count]


def _as_logits(model: ModelProto, name: str, value: np.ndarray, taken_for: str) -> str:
    """float32 (N, C), whatever trailing ones it has; numbers that are no logits become some (`guard.graph.answers`)."""
    if value.ndim == 1:
        name = _add(model, "Unsqueeze", [name, _constant(model, np.array([1]))])
    elif value.ndim != 2:
        name = _add(model, "Flatten", [name], axis=1)
    name = _as_float(model, name, value)
    if taken_for == "softmax":
        name = _add(model, "Log", [_add(model, "Max", [name, _constant(model, np.float32(2.0**-126))])])
    if taken_for == "sigmoid":
        clipped = _add(model, "Max", [name, _constant(model, np.float32(2.0**-126))])
        p = _add(model, "Min", [clipped, _constant(model, np.float32(1 - 2.0**-24))])
        rest = _add(model, "Sub", [_constant(model, np.float32(1)), p])
        name = _add(model, "Sub", [_add(model, "Log", [p]), _add(model, "Log", [rest])])
    if taken_for in BINARY and value.size == len(value):
        name = _add(model, "Mul", [name, _constant(model, np.array([[-0.5, 0.5]], np.float32))])
    return name


def _as_vector(model: ModelProto, name: str, value: np.ndarray) -> str:
    """float32 (N, D): maps (N, D, h, w) are averaged, tokens take the first of (N, L, D), as in `HookedClassifier`."""
    if value.dtype.kind != "f" or value.ndim not in (2, 3, 4):
        raise ModelError(f"tensor {name!r} is {value.dtype} {value.shape}; features are float of 2, 3 or 4 dimensions")
    if value.ndim == 4:
        name = _add(model, "ReduceMean", [name, _constant(model, np.array([2, 3]))], keepdims=0)
    if value.ndim == 3:
        name = _add(model, "Gather", [name, _constant(model, np.array(0))], axis=1)
    return _as_float(model, name, value)


def _as_float(model: ModelProto, name: str, value: np.ndarray) -> str:
    return name if value.dtype == np.float32 else _add(model, "Cast", [name], to=TensorProto.FLOAT)


def _add(model: ModelProto, kind: str, inputs: list[str], **attributes: Any) -> str:
    """Append a node; returns the name of its output."""
    name = unused_name(model.graph, f"{inputs[0]}_{kind.lower()}")
    model.graph.node.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
    return name


def _constant(model: ModelProto, value: np.ndarray | np.float32) -> str:
    name = unused_name(model.graph, "guard_constant")
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def _declare_shapes(model: ModelProto, images: Images, noise: np.ndarray, widths: list[int]) -> None:
    """Any number of images of one size in, rows out; what ONNX Runtime and `OnnxClassifier` go by."""
    (given,) = model.graph.input
    element = given.type.tensor_type.elem_type
    given.CopyFrom(helper.make_tensor_value_info(images.name, element, ["batch", *noise.shape[1:]]))
    for value, width in zip(model.graph.output, widths, strict=True):
        value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, ["batch", width]))


def _gives(layer: LinearLayer, features: np.ndarray, logits: np.ndarray) -> bool:
    """Whether the layer turns these features into these logits, within what half precision or int8 rounds away."""
    if layer.weight.shape != (logits.shape[1], features.shape[1]):
        return False
    return close(features @ layer.weight.T + layer.bias, logits, within=1e-2)
