"""A score that is not a number is flagged: a blank image in a network that divides by each image's own deviation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import guard
from guard.artefact.files import graph_bytes, read_onnx, write_onnx
from tests.conftest import Arrays
from tests.export.test_optional_inputs import alone


class Standardising(nn.Module):
    """A linear layer on standardised pixels."""

    def __init__(self, weights: np.ndarray) -> None:
        super().__init__()
        self.fc = nn.Linear(weights.shape[1], len(weights), bias=False)
        self.fc.weight.data = torch.from_numpy(weights)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        x = x - x.mean(1, keepdim=True)
        logits: Tensor = self.fc(x / x.square().mean(1, keepdim=True).sqrt())
        return logits


def as_onnx(weights: np.ndarray, size: tuple[int, ...], path: Path) -> Path:
    """The same network."""
    steps = [("Flatten", ["x"]), ("ReduceMean", ["0", "axis"]), ("Sub", ["0", "1"]), ("Mul", ["2", "2"])]
    steps += [("ReduceMean", ["3", "axis"]), ("Sqrt", ["4"]), ("Div", ["2", "5"]), ("MatMul", ["6", "w"])]
    nodes = [helper.make_node(kind, inputs, [str(i)]) for i, (kind, inputs) in enumerate(steps)]
    nodes.append(helper.make_node("Identity", ["7"], ["logits"]))
    constants = {"axis": np.array([1]), "w": np.ascontiguousarray(weights.T)}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, *size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(weights)])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def fitted(four: Arrays, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Path]]:
    """By who writes the comparison: a guard, and the file that it was exported to."""
    folder = tmp_path_factory.mktemp("nan")
    images = np.ascontiguousarray(np.broadcast_to(four[0][..., :1], (*four[0].shape[:3], 3)))
    x = images.transpose(0, 3, 1, 2).reshape(len(images), -1).astype(np.float32)
    x = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    weights = np.stack([x[four[1] == c].mean(0) for c in range(4)]) / 20
    options: dict[str, Any] = {"score": "energy", "mean": (0.0,) * 3, "std": (1.0,) * 3, "device": "cpu"}
    net = Standardising(weights).eval()
    ours = guard.fit(net, (images, four[1]), **options)
    theirs = guard.fit(as_onnx(weights, images.shape[1:3], folder / "net.onnx"), (images, four[1]), **options)
    by_class = ours.calibrate(images, class_conditional=True, min_class_images=19)
    made = {
        "torch": (ours, {}),
        "explained": (ours, {"exemplars": 1, "data": images}),
        "graft": (theirs, {}),
        "graft, explained": (theirs, {"exemplars": 1, "data": images}),
        "by class": (by_class, {}),
    }
    return {name: (g, guard.export(g, folder / f"{name}.onnx", **more)) for name, (g, more) in made.items()}


def blank(g: Any) -> np.ndarray:
    """Two black images of the guard's size."""
    p = g.manifest.preprocess
    return np.zeros((2, p.height, p.width, p.channels), np.uint8)


def flags_blank_images(g: guard.Guard) -> None:
    verdicts = g.predict(blank(g))
    assert np.isnan(verdicts.ood_score).all()
    assert verdicts.is_ood.all()
    calibration = g.manifest.calibration
    for verdict in verdicts:
        n = calibration.class_counts[verdict.label] if calibration.class_conditional else calibration.n
        assert verdict.p_value == 1 / (n + 1)


@pytest.mark.parametrize("name", ["torch", "explained", "graft", "graft, explained", "by class"])
def test_nan_is_flagged_with_the_smallest_p_value_wherever_a_guard_runs(
    name: str, fitted: dict[str, tuple[Any, Path]]
) -> None:
    g, path = fitted[name]
    flags_blank_images(g)
    assert alone(path, blank(g))["is_ood"].all()
    for runtime in ("onnxruntime", "openvino"):
        flags_blank_images(guard.load(path, device="cpu", runtime=runtime))


def test_a_guard_without_a_threshold_flags_nan_alone(fitted: dict[str, tuple[Any, Path]], four: Arrays) -> None:
    for g in (fitted["torch"][0], guard.load(fitted["torch"][1], device="cpu")):
        bare = guard.Guard(g.manifest.model_copy(update={"calibration": None}), g.runtime)
        assert bare.predict(blank(g)).is_ood.all()
        assert not bare.predict(four[0][:20]).is_ood.any()


@pytest.mark.parametrize("name", ["torch", "by class"])
def test_a_file_of_an_older_release_flags_nan_where_guard_runs_it(
    name: str, fitted: dict[str, tuple[Any, Path]], four: Arrays, tmp_path: Path
) -> None:
    data, manifest = read_onnx(fitted[name][1])
    model = onnx.load_from_string(graph_bytes(data))
    accepted, negated = (next(n for n in model.graph.node if n.op_type == kind) for kind in ("LessOrEqual", "Not"))
    model.graph.node.append(helper.make_node("Greater", list(accepted.input), ["is_ood"]))
    for node in (accepted, negated):
        model.graph.node.remove(node)
    old = tmp_path / "old.onnx"
    write_onnx(old, model.SerializeToString(), manifest)
    g = guard.load(old, device="cpu")
    assert not alone(old, blank(g))["is_ood"].any()
    flags_blank_images(g)
    if name == "torch":  # what it gets anew compares as files do now
        saved = g.calibrate(four[0], class_conditional=True, min_class_images=19).save(tmp_path / "new.onnx")
        assert alone(saved, blank(g))["is_ood"].all()
