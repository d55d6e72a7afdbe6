"""The classifier inside an exported guard, as somebody without a guard would export it: pixels prepared, logits out.

images uint8 -> cast, transposed, centred | -> network -> logits | -> label, probabilities, score, threshold
                                          what is between the bars
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx.utils
from onnx import ModelProto, NodeProto, TensorProto, helper

from guard.errors import ExportError

from .precision.body import logits_of

_PREPARING = {"Cast", "Transpose", "Gather", "Sub", "Mul", "Add", "Div", "Identity"}


def bare_classifier(graph: bytes) -> tuple[bytes, str, np.dtype]:
    """Of a serialised guard graph in any precision: the serialised classifier, its only input and that one's type.

    Raises:
        ExportError: the pixels do not run straight into a network.
    """
    model = onnx.load_from_string(graph)
    first = _prepared(model)
    inferred = onnx.shape_inference.infer_shapes(model)
    types = {value.name: value.type.tensor_type for value in [*inferred.graph.value_info, *inferred.graph.input]}
    inside: ModelProto = onnx.utils.Extractor(inferred).extract_model([first], [logits_of(model)])
    return inside.SerializeToString(), first, helper.tensor_dtype_to_np_dtype(types[first].elem_type)


def _prepared(model: ModelProto) -> str:
    """The tensor that the network begins with: behind what prepares pixels, in float32.

    Who asks the pixels for the size of their batch is given that tensor, whose first axis is the same.
    """
    name, counting = "images", []
    while True:
        readers = [node for node in model.graph.node if name in node.input]
        others = [node for node in readers if not _counts_images(node)]
        if len(others) != 1 or not _prepares(others[0]):
            break
        counting += [node for node in readers if _counts_images(node)]
        name = others[0].output[0]
    for node in counting:
        node.input[0] = name
    if name == "images":
        raise ExportError(
            "the graph's images are read by more than what prepares them; the bare classifier cannot be cut out"
        )
    return name


def _counts_images(node: NodeProto) -> bool:
    """Whether it reads nothing but the size of the first axis."""
    ends = {attribute.name: attribute.i for attribute in node.attribute}
    return node.op_type == "Shape" and ends.get("start", 0) == 0 and ends.get("end") == 1


def _prepares(node: NodeProto) -> bool:
    shortened = node.op_type == "Cast" and node.attribute[0].i != TensorProto.FLOAT
    return node.op_type in _PREPARING and not shortened
