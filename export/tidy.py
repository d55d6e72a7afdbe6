"""What happens to the exported graph before it is written."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper

from .fold_normalisation import fold_normalisation


def tidy(model: ModelProto, *, threshold: float) -> ModelProto:
    """Fold the normalisation, give the threshold its default, remove what does not belong in a file that travels."""
    fold_normalisation(model)
    _default_threshold(model, threshold)
    _strip(model)
    _fix_shapes(model)
    model.producer_name = "ood-guard"
    model.producer_version = ""
    model.doc_string = "images -> label, probabilities, ood_score (higher = more out-of-distribution), is_ood"
    return model


def _default_threshold(model: ModelProto, threshold: float) -> None:
    """An initializer with an input's name is its default value (ONNX IR >= 4): the input becomes optional."""
    graph = model.graph
    for index, initializer in enumerate(graph.initializer):
        if initializer.name == "threshold":
            del graph.initializer[index]
            break
    graph.initializer.append(numpy_helper.from_array(np.array(threshold, dtype=np.float32), "threshold"))
    if all(i.name != "threshold" for i in graph.input):  # the exporter drops an input that no node reads
        graph.input.append(helper.make_tensor_value_info("threshold", onnx.TensorProto.FLOAT, []))


def _strip(model: ModelProto) -> None:
    """Nodes carry absolute source paths of the exporting machine; intermediate shapes are derivable."""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [*model.graph.input, *model.graph.output]:
        del value.metadata_props[:]
        value.doc_string = ""
    for initializer in model.graph.initializer:
        del initializer.metadata_props[:]
        initializer.doc_string = ""


def _fix_shapes(model: ModelProto) -> None:
    """Name the dynamic dimension alike everywhere."""
    for value in [*model.graph.input, *model.graph.output]:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_param = "batch"
