"""Which nodes of a guard's graph may compute in less than float32: the network's body, and nothing behind it.

The body begins at the first convolution or matrix product with weights and ends where maps (N, D, h, w) or tokens
(N, L, D) become vectors (N, D): features, logits, distances, norms, log-sum-exp and the threshold are vectors and stay
in float32, as do the pixels' normalisation in front and what a score computes of maps by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import onnx
from onnx import ModelProto, NodeProto, TensorProto

from guard.errors import ExportError
from guard.graph.onnx_nodes import producers, reads, subgraphs

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
#: Sums of squares, exponentials and the like overflow or cancel in 16 bits: they stay in float32 inside the body.
KEPT = {
    *("CumSum", "Exp", "Log", "Pow", "Reciprocal", "Sqrt"),
    *("GroupNormalization", "InstanceNormalization", "LpNormalization"),
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum"),
    "ReduceSumSquare",
}
NAMED = {"Cast", "CastLike", "Constant", "Identity", "Shape", "Size"}  # of an attribute's type, or without arithmetic


@dataclass(frozen=True)
class Body:
    """The nodes of the body, by the name of their first output, in the graph's order.

    Attributes:
        weighted: those with weights: convolutions, matrix products.
        ranks: dimensions of every tensor whose shape is known.
    """

    nodes: tuple[str, ...]
    weighted: tuple[str, ...]
    ranks: dict[str, int]

    def has(self, node: NodeProto) -> bool:
        return bool(node.output) and node.output[0] in self._members

    @cached_property
    def _members(self) -> frozenset[str]:
        return frozenset(self.nodes)


def body(model: ModelProto) -> Body:
    """The body of a guard's graph.

    Raises:
        ExportError: there is none: a network without convolutions or matrix products on maps or tokens.
    """
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    types = {v.name: v.type.tensor_type for v in [*inferred.value_info, *inferred.input, *inferred.output]}
    ranks = {name: len(one.shape.dim) for name, one in types.items() if one.HasField("shape")}
    constants = {i.name for i in model.graph.initializer}
    before = _ancestors(model, logits_of(model))
    nodes, weighted, reached = [], [], set[str]()
    for node in model.graph.node:
        first = node.output[0] if node.output else ""
        if first not in before or ranks.get(first, 0) < 3 or types[first].elem_type != TensorProto.FLOAT:
            continue
        heavy = node.op_type in WEIGHTED and any(name in constants for name in node.input)
        if not heavy and not any(name in reached for name in node.input):
            continue
        reached.update(node.output)
        if node.op_type not in KEPT and node.op_type not in NAMED and not any(subgraphs(node)):
            nodes.append(first)
            weighted += [first] if heavy else []
    if not weighted:
        raise ExportError(
            "this network has no convolutions or matrix products on maps or tokens, which alone compute in less than "
            "float32; export it with precision='fp32'"
        )
    return Body(tuple(nodes), tuple(weighted), ranks)


def logits_of(model: ModelProto) -> str:
    """The tensor whose largest value is the label.

    Raises:
        ExportError: the graph is not one of ours.
    """
    for node in model.graph.node:
        if "label" in node.output and node.op_type == "ArgMax":
            name: str = node.input[0]
            return name
    raise ExportError("the graph's label must come from ArgMax: it was not written by this library")


def _ancestors(model: ModelProto, name: str) -> set[str]:
    """The outputs of all nodes that the tensor is computed from, its own among them."""
    makers = producers(model.graph)
    found: set[str] = set()
    waiting = [name]
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and not found.issuperset(node.output):
            found.update(node.output)
            waiting.extend(reads(node))
    return found
