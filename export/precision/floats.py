"""The body of a guard's graph in float16 or bfloat16.

Weights are stored in 16 bits. A tensor that enters the body is cast, and cast back where it leaves, so that the types
of the graph say what is computed in which precision: a strongly typed TensorRT network takes it as it is.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx.version_converter
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from guard.graph.onnx_nodes import opset, reads

from .body import Body, body

TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
DTYPES = {name: helper.tensor_dtype_to_np_dtype(kind) for name, kind in TYPES.items()}
BFLOAT16_OPSET = 22  # the first in which convolutions and pooling have it


def in_half(graph: bytes, precision: str) -> bytes:
    """The serialised graph with its body in "fp16" or "bf16"."""
    model = _loaded(graph, precision)
    _Halved(model, body(model), precision).rewrite()
    return bytes(model.SerializeToString())


def rounded(graph: bytes, precision: str) -> bytes:
    """The same arithmetic for a runtime that has no such type: float32 nodes whose weights and results are rounded."""
    model = _loaded(graph, precision)
    _Rounded(model, body(model), precision).rewrite()
    return bytes(model.SerializeToString())


def _loaded(graph: bytes, precision: str) -> ModelProto:
    model = onnx.load_from_string(graph)
    if precision == "bf16" and opset(model) < BFLOAT16_OPSET:
        model = onnx.version_converter.convert_version(model, BFLOAT16_OPSET)
    return model


class _Halved:
    """One rewriting of a graph in place."""

    def __init__(self, model: ModelProto, found: Body, precision: str) -> None:
        self.model = model
        self.body = found
        self.kind, self.dtype = TYPES[precision], DTYPES[precision]
        self.suffix = f".{precision}"
        self.constants = {i.name: i for i in model.graph.initializer}
        self.made: dict[str, str] = {}  # tensors that were cast, or weights that were rounded, by their name before
        self.inside = {name for node in model.graph.node if found.has(node) for name in self.floats(node)}

    def rewrite(self) -> None:
        nodes = list(self.model.graph.node)
        del self.model.graph.node[:]
        outside = {name for node in nodes if not self.body.has(node) for name in self.read(node)}
        outside |= {output.name for output in self.model.graph.output}
        for node in nodes:
            self.model.graph.node.extend(self.replaced(node, outside))
        self._drop_unread()

    def replaced(self, node: NodeProto, outside: set[str]) -> Iterator[NodeProto]:
        """The node in its new form, behind the casts that it needs and before those that others need."""
        if not self.body.has(node):
            if node.op_type in ("Shape", "Size") and node.input[0] in self.inside:
                node.input[0] += self.suffix
            yield node
            return
        for index in self.castable(node):
            name = node.input[index]
            if name in self.inside:
                node.input[index] = name + self.suffix
            elif name in self.constants:
                node.input[index] = self.weight(name)
            else:
                if name not in self.made:
                    self.made[name] = name + self.suffix
                    yield helper.make_node("Cast", [name], [self.made[name]], to=self.kind, name=f"cast_{name}")
                node.input[index] = self.made[name]
        names = self.floats(node)
        node.output[:] = [name + self.suffix if name in names else name for name in node.output]
        yield node
        for name in names:
            if name in outside:
                yield helper.make_node(
                    "Cast", [name + self.suffix], [name], to=TensorProto.FLOAT, name=f"cast_{name}{self.suffix}"
                )

    def weight(self, name: str) -> str:
        """A constant in 16 bits, made once."""
        if name not in self.made:
            array = numpy_helper.to_array(self.constants[name])
            self.made[name] = name + self.suffix
            self.model.graph.initializer.append(self.tensor(array.astype(self.dtype), self.made[name]))
        return self.made[name]

    def tensor(self, array: np.ndarray, name: str) -> TensorProto:
        return helper.make_tensor(name, self.kind, array.shape, array.tobytes(), raw=True)

    def castable(self, node: NodeProto) -> list[int]:
        """Positions of the inputs whose type goes with the node's: not indices, and not the sizes of a Resize."""
        schema = self.schema(node)
        taken = []
        for index, name in enumerate(node.input):
            asked = schema.inputs[min(index, len(schema.inputs) - 1)]
            variable = "(" not in asked.type_str
            if name and variable and f"tensor({self.dtype.name})" in asked.types and self.is_float(name):
                taken.append(index)
        return taken

    def is_float(self, name: str) -> bool:
        """Whether a tensor is of float32: a constant says so; what nodes give to a float's place is."""
        return self.constants[name].data_type == TensorProto.FLOAT if name in self.constants else True

    def floats(self, node: NodeProto) -> list[str]:
        """Outputs of the type of the first one."""
        declared = self.schema(node).outputs
        kinds = [declared[min(index, len(declared) - 1)].type_str for index in range(len(node.output))]
        return [name for name, kind in zip(node.output, kinds, strict=True) if name and kind == kinds[0]]

    def schema(self, node: NodeProto) -> onnx.defs.OpSchema:
        return onnx.defs.get_schema(node.op_type, opset(self.model), node.domain)

    def read(self, node: NodeProto) -> list[str]:
        """What a node outside of the body needs in float32."""
        return [] if node.op_type in ("Shape", "Size") else sorted(reads(node))

    def _drop_unread(self) -> None:
        graph = self.model.graph
        read = {name for node in graph.node for name in reads(node)} | {i.name for i in graph.input}
        kept = [i for i in graph.initializer if i.name in read]
        del graph.initializer[:]
        graph.initializer.extend(kept)


class _Rounded(_Halved):
    """Nodes stay in float32; their weights, what enters the body and what they give is rounded to 16 bits."""

    def replaced(self, node: NodeProto, outside: set[str]) -> Iterator[NodeProto]:
        if not self.body.has(node):
            yield node
            return
        for index in self.castable(node):
            name = node.input[index]
            if name in self.constants:
                node.input[index] = self.weight(name)
            elif name not in self.inside:
                if name not in self.made:
                    self.made[name] = name + self.suffix
                    yield from self.rounding(name, self.made[name])
                node.input[index] = self.made[name]
        names = self.floats(node)
        node.output[:] = [name + self.suffix if name in names else name for name in node.output]
        yield node
        for name in names:
            yield from self.rounding(name + self.suffix, name)

    def rounding(self, name: str, target: str) -> Iterator[NodeProto]:
        yield helper.make_node("Cast", [name], [f"{target}.short"], to=self.kind, name=f"shorten_{target}")
        yield helper.make_node("Cast", [f"{target}.short"], [target], to=TensorProto.FLOAT, name=f"lengthen_{target}")

    def tensor(self, array: np.ndarray, name: str) -> TensorProto:
        return numpy_helper.from_array(array.astype(np.float32), name)
