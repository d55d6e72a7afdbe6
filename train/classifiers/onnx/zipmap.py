"""Files whose answer is a list of {class: probability} per image, as Custom Vision, sklearn-onnx and LightGBM write it:
the ZipMap that makes it is left out, and its classes are the model's names."""

from __future__ import annotations

from onnx import ModelProto, TensorProto, helper

from guard.graph.onnx_nodes import ancestors, foreign_operators, producers, prune


def without_zipmap(model: ModelProto) -> tuple[str, ...]:
    """Let the graph answer with what each ZipMap reads, (N, C); returns the names of its classes, () without one."""
    graph = model.graph
    made_by, found = producers(graph), False
    names: tuple[str, ...] = ()
    for output in graph.output:
        node = made_by.get(output.name)
        if node is None or node.op_type != "ZipMap":
            continue
        options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        classes = options.get("classlabels_strings") or options.get("classlabels_int64s") or ()
        names = tuple(c.decode() if isinstance(c, bytes) else str(c) for c in classes)
        shape = ["batch", len(names) or "classes"]
        output.CopyFrom(helper.make_tensor_value_info(node.input[0], TensorProto.FLOAT, shape))
        found = True
    if found:
        prune(graph)
        _drop_unused_domains(model)
    return names


def without_foreign_outputs(model: ModelProto) -> None:
    """Drop outputs, such as a label looked up in a list of strings, that need operators outside the ONNX standard;
    nothing is dropped where all do."""
    graph = model.graph
    kept = []
    for output in graph.output:
        part = type(graph)()
        part.node.extend(ancestors(graph, {output.name}))
        if not foreign_operators(part):
            kept.append(output)
    if 0 < len(kept) < len(graph.output):
        kept = [type(output).FromString(output.SerializeToString()) for output in kept]
        del graph.output[:]
        graph.output.extend(kept)
        prune(graph)
        _drop_unused_domains(model)


def _drop_unused_domains(model: ModelProto) -> None:
    used = {operator.rpartition(".")[0] for operator in foreign_operators(model.graph)}
    kept = [o for o in model.opset_import if o.domain in ("", "ai.onnx") or o.domain in used]
    kept = [type(o).FromString(o.SerializeToString()) for o in kept]
    del model.opset_import[:]
    model.opset_import.extend(kept)
