"""Give an exported graph the inputs that a class-conditional calibration and a temperature need.

    is_ood        = not (ood_score <= threshold)    becomes  not (ood_score <= threshold + class_offsets[label])
    probabilities = Softmax(logits)                 becomes  Softmax(logits * inverse_temperature)

Each is an optional input with a default, like `threshold`, so that the file decides alike for every consumer and can be
calibrated again without being rebuilt (`guard.artefact.onnx_defaults` writes the values). A guard that needs neither
keeps its graph as it is: no node is added that would do nothing.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from guard.artefact.onnx_defaults import graph_inputs, set_defaults
from guard.calibration.decision_rule import CLASS_OFFSETS, INVERSE_TEMPERATURE, Decision
from guard.errors import ExportError
from guard.manifest import Manifest

_MEANING = {
    CLASS_OFFSETS: "added to threshold by class: is_ood = ood_score > threshold + class_offsets[label] (or NaN)",
    INVERSE_TEMPERATURE: "probabilities = softmax(logits * inverse_temperature)",
}


def recalibrated(graph: bytes, manifest: Manifest) -> bytes:
    """The serialised graph with the inputs and the defaults that `manifest` asks for; doing it twice changes nothing.

    Raises:
        ExportError: the graph is not built like one of ours.
    """
    decision = Decision.of(manifest)
    missing = decision.needs - graph_inputs(graph)
    if missing:
        model = onnx.load_from_string(graph)
        add_inputs(model, missing, decision.classes)
        onnx.checker.check_model(model)
        graph = model.SerializeToString()
    return set_defaults(graph, decision.defaults(graph_inputs(graph)))


def add_inputs(model: ModelProto, names: frozenset[str], classes: int) -> None:
    """Add the nodes and inputs `names` in place, with defaults that leave every answer as it is."""
    graph = model.graph
    if CLASS_OFFSETS in names:
        _add_class_offsets(graph, classes)
    if INVERSE_TEMPERATURE in names:
        _add_temperature(graph)


def _add_class_offsets(graph: GraphProto, classes: int) -> None:
    comparison = _comparison(graph)
    score, limit = comparison[-1].input
    if limit != "threshold":
        raise ExportError(f"is_ood must compare with threshold, it compares with {limit!r}")
    _optional_input(graph, CLASS_OFFSETS, np.zeros(classes, np.float32))
    for node in comparison:
        graph.node.remove(node)
    graph.node.extend(
        [
            helper.make_node(
                "Gather", [CLASS_OFFSETS, "label"], ["guard.class_offset"], axis=0, name="node_class_offset"
            ),
            helper.make_node(
                "Add", ["threshold", "guard.class_offset"], ["guard.class_threshold"], name="node_class_threshold"
            ),
            helper.make_node("LessOrEqual", [score, "guard.class_threshold"], ["guard.accepted"], name="node_accepted"),
            helper.make_node("Not", ["guard.accepted"], ["is_ood"], name="node_is_ood"),
        ]
    )


def _comparison(graph: GraphProto) -> list[NodeProto]:
    """The nodes behind `is_ood`; files of older releases have one, which does not flag NaN."""
    last = _producer(graph, "is_ood", "Not", "Greater")
    return [last] if last.op_type == "Greater" else [last, _producer(graph, last.input[0], "LessOrEqual")]


def _add_temperature(graph: GraphProto) -> None:
    """A score may read the same softmax (the exporter computes equal things once), and must keep reading it as it is:
    then the tempered one is another node."""
    softmax = _producer(graph, "probabilities", "Softmax")
    _optional_input(graph, INVERSE_TEMPERATURE, np.array(1, np.float32))
    logits, axis = softmax.input[0], next((a.i for a in softmax.attribute if a.name == "axis"), -1)
    readers = [node for node in graph.node if "probabilities" in node.input]
    if readers:
        softmax.output[0] = "guard.untempered_probabilities"
        for node in readers:
            node.input[:] = [
                "guard.untempered_probabilities" if name == "probabilities" else name for name in node.input
            ]
    else:
        graph.node.remove(softmax)
    graph.node.extend(
        [
            helper.make_node(
                "Mul", [logits, INVERSE_TEMPERATURE], ["guard.tempered_logits"], name="node_tempered_logits"
            ),
            helper.make_node(
                "Softmax", ["guard.tempered_logits"], ["probabilities"], axis=axis, name="node_probabilities"
            ),
        ]
    )


def _producer(graph: GraphProto, output: str, *operators: str) -> NodeProto:
    found = [node for node in graph.node if output in node.output]
    if len(found) != 1 or found[0].op_type not in operators:
        got = found[0].op_type if found else "nothing"
        raise ExportError(f"the graph's {output} must come from {' or '.join(operators)}, it comes from {got}")
    only: NodeProto = found[0]
    return only


def _optional_input(graph: GraphProto, name: str, default: np.ndarray) -> None:
    graph.initializer.append(numpy_helper.from_array(default, name))
    value = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, default.shape)
    value.doc_string = _MEANING[name]
    graph.input.append(value)
