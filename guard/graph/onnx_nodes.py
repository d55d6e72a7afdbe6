"""Small operations on ONNX graphs, shared by what reads a user's classifier (train) and what writes a guard (export).

Names of values are unique in a graph and all its subgraphs, so one mapping renames everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto

STANDARD = ("", "ai.onnx")  # both name the operators of the ONNX standard


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The bodies of a control-flow node."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """The nodes of a graph and of its subgraphs."""
    for node in graph.node:
        yield node
        for body in subgraphs(node):
            yield from all_nodes(body)


def producers(graph: GraphProto) -> dict[str, NodeProto]:
    """Value name -> the node that computes it."""
    return {name: node for node in graph.node for name in node.output if name}


def reads(node: NodeProto) -> set[str]:
    """Names a node reads; a control-flow node also reads what its bodies do."""
    names = {name for name in node.input if name}
    for body in subgraphs(node):
        names |= {name for inner in body.node for name in reads(inner)} | {o.name for o in body.output}
    return names


def ancestors(graph: GraphProto, names: set[str]) -> list[NodeProto]:
    """The nodes that `names` are computed from, in the graph's order."""
    wanted, kept = set(names), []
    for node in reversed(graph.node):  # topologically sorted
        if wanted.intersection(node.output):
            wanted |= reads(node)
            kept.append(node)
    return kept[::-1]


def prune(graph: GraphProto) -> None:
    """Remove nodes that no output is computed from, and initializers that no node reads."""
    outputs = {output.name for output in graph.output}
    kept = ancestors(graph, outputs)
    read = outputs.union(*(reads(node) for node in kept))
    initializers = [i for i in graph.initializer if i.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(initializers)


def value_names(graph: GraphProto) -> set[str]:
    """Every name in use: inputs, initializers and computed values, in subgraphs too."""
    names = {value.name for value in [*graph.input, *graph.initializer]}
    for node in graph.node:
        names |= set(node.output)
        for body in subgraphs(node):
            names |= value_names(body)
    return names - {""}


def unused_name(graph: GraphProto, name: str) -> str:
    """`name`, with underscores appended until nothing else has it."""
    taken = value_names(graph)
    while name in taken:
        name += "_"
    return name


def rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Give values other names, wherever they are written or read."""
    for value in [*graph.input, *graph.output, *graph.initializer, *graph.value_info]:
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for body in subgraphs(node):
            rename(body, names)


def opset(model: ModelProto) -> int:
    """The version of the standard operators that a model imports; 0 where it imports none."""
    return next((o.version for o in model.opset_import if o.domain in STANDARD), 0)


def prefix(graph: GraphProto, text: str, keep: Mapping[str, str] | None = None) -> None:
    """Put `text` before every name of a value and of a node, but for the values in `keep`, which get the name given."""
    keep = keep or {}
    rename(graph, {name: keep.get(name, text + name) for name in value_names(graph)})
    for node in all_nodes(graph):
        node.name = text + node.name if node.name else ""


def foreign_operators(graph: GraphProto) -> list[str]:
    """Operators outside the ONNX standard, as "domain.Type", sorted."""
    return sorted({f"{n.domain}.{n.op_type}" for n in all_nodes(graph) if n.domain not in STANDARD})
