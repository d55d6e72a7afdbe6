"""Which output of a graph is the answer, and which tensor in front of its softmax or sigmoid is the logits."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, helper

from guard.errors import ModelError
from guard.graph.answers import BINARY
from guard.graph.onnx_nodes import ancestors

from ...features.answers import check_values
from ...features.values import kind_of
from .head import without_softmax
from .read import runner

log = logging.getLogger("ood_guard")

_LAST = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid"}


def answer_of(model: ModelProto, seen: dict[str, Any], n: int, classes: Callable[[], int], outputs: str) -> str:
    """The output that is the classes' logits or probabilities, (n, C) or (n, C, 1, 1); of a binary classifier also
    (n, 1) or (n,).

    Args:
        seen: the outputs for n images.
        classes: how many there are; asked only where several outputs could be it.
        outputs: of `guard.fit`.
    """
    widths = {name: width for name, value in seen.items() if (width := _width(value, n)) >= 2}
    single = [name for name, value in seen.items() if _width(value, n) == 1]
    if single and _is_binary(widths, classes, outputs):
        widths = dict.fromkeys(single, 1)
    if not widths and single:
        check_values(torch.from_numpy(np.asarray(seen[single[0]]).reshape(-1, 1)), "auto", f"output {single[0]!r}")
    if not widths:
        found = ", ".join(f"{name} {_shown(value)}" for name, value in list(seen.items())[:4])
        raise ModelError(f"no output is logits (N, C) of C >= 2 classes; for {n} images it answers {found}")
    if len(widths) > 1:
        wanted = classes()
        widths = {name: width for name, width in widths.items() if width == wanted} or widths
    distinct = {without_softmax(model, name)[0]: name for name in widths}  # logits and their softmax are one
    if len(distinct) > 1:
        one = next(iter(distinct.values()))
        raise ModelError(
            f"any of the outputs {', '.join(distinct.values())} could be the logits; write a file with one of them: "
            f"onnx.utils.extract_model('this.onnx', 'one.onnx', [{model.graph.input[0].name!r}], [{one!r}])"
        )
    return next(iter(distinct.values()))


def _is_binary(widths: dict[str, int], classes: Callable[[], int], outputs: str) -> bool:
    """Whether a column of numbers is the answer, and not the wider outputs: an embedding beside it, say."""
    if outputs == "binary" or not widths:
        return outputs in BINARY
    return outputs in ("auto", "sigmoid") and 2 not in widths.values() and classes() == 2


def _width(value: Any, n: int) -> int:
    """C of numbers (n, C) or (n, C, 1, 1), 1 of (n,); 0 of anything else."""
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or not value.ndim or value.shape[0] != n:
        return 0
    if value.ndim == 1:
        return 1
    return value.shape[1] if value.size == n * value.shape[1] else 0


def _shown(value: Any) -> str:
    if not isinstance(value, np.ndarray):
        return f"a {type(value).__name__}"
    if value.ndim == 4 and value.size != value.shape[0] * value.shape[1]:
        return f"{value.shape}, a map of answers for every place (segmentation)"
    return f"{value.shape}, class indices" if value.dtype.kind in "iu" else f"{value.shape}"


def logits_of(model: ModelProto, output: str, feed: dict[str, np.ndarray], outputs: str, file: str) -> tuple[str, str]:
    """(the tensor that is the logits, "" or what its numbers still have to be taken for: `guard.graph.answers`).

    What a softmax or sigmoid at the end reads is the logits, whether it is one node or written with several: a tensor
    in front counts whose softmax is the answer to these images.

    Raises:
        ModelError: the answer is none of a classifier of one class per image, and nothing said so.
    """
    name, last = without_softmax(model, output)
    numbers = _numbers(model, output, feed)
    kind = _LAST.get(last) or kind_of(numbers, sigmoid=None)
    if not last and kind in ("softmax", "log_softmax", "sigmoid"):
        name = _before(model, output, feed, numbers, kind) or output
    if kind == "sigmoid" or last == "Sigmoid":
        if outputs in ("auto", "binary") and numbers.shape[1] > 1:
            raise ModelError(
                f"output {output!r} ends in a Sigmoid, which judges every class by itself; a guard needs a classifier "
                "that chooses one class: say outputs='sigmoid' where every image is of one"
            )
        if outputs == "logits" and last != "Sigmoid":
            return output, ""
    if name != output:
        _check_said(outputs, kind, numbers, output)
        log.info("%s ends in a %s: its input is taken for the logits", file, last or kind)
        return name, "binary" if numbers.shape[1] == 1 else ""
    if outputs == "auto" or outputs == "logits":
        check_values(numbers, outputs, f"output {output!r}", sigmoid=kind == "sigmoid")
        return output, ""
    check_values(numbers, outputs, f"output {output!r}")
    return output, outputs


def _check_said(outputs: str, kind: str, numbers: torch.Tensor, output: str) -> None:
    """Refuse `outputs` that contradicts the end of the graph."""
    if outputs in ("auto", "logits", kind):
        if numbers.shape[1] == 1 and outputs != kind:
            check_values(numbers, "auto", f"output {output!r}")
        return
    raise ModelError(f"output {output!r} is that of a {kind}, not of {outputs}; omit outputs={outputs!r}")


def _numbers(model: ModelProto, output: str, feed: dict[str, np.ndarray]) -> torch.Tensor:
    (images,) = feed.values()
    value = np.asarray(runner(model)(feed)[output], dtype=np.float32)
    return torch.from_numpy(value.reshape(len(images), -1))


def _before(
    model: ModelProto, output: str, feed: dict[str, np.ndarray], numbers: torch.Tensor, kind: str
) -> str | None:
    """The first tensor in the graph whose softmax, log_softmax or sigmoid is `numbers`; None where there is none."""
    apply = {"softmax": lambda t: t.softmax(1), "log_softmax": lambda t: t.log_softmax(1), "sigmoid": torch.sigmoid}
    shown = type(model)()
    shown.CopyFrom(model)
    inner: list[str] = [
        name for node in ancestors(model.graph, {output}) for name in node.output if name and name != output
    ]
    known = {value.name for value in model.graph.output}
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    floats = {v.name for v in inferred if v.type.tensor_type.elem_type in (1, 10, 11)}
    shown.graph.output.extend(
        helper.make_empty_tensor_value_info(name) for name in inner if name not in known and name in floats
    )
    try:
        values = runner(shown)(feed)
    except ModelError:
        return None
    for name in inner:
        value = values.get(name)
        if not isinstance(value, np.ndarray) or value.size != numbers.numel() or value.dtype.kind != "f":
            continue
        tensor = torch.from_numpy(value.astype(np.float32).reshape(numbers.shape))
        alike = torch.allclose(apply[kind](tensor), numbers, rtol=1e-3, atol=1e-4)
        if alike and not torch.equal(tensor, numbers) and kind_of(tensor, sigmoid=False) == "logits":
            return name
    return None
