"""A guard grafted onto an ONNX classifier: its graph stays, its answers too, and every score is what torch says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, numpy_helper

import guard
from guard.errors import ExportError
from guard.scores import get_score, list_scores
from tests.conftest import Arrays
from tests.train.classifiers.onnx_nets import FILES, MEAN, STD, WB, File, Plain, build, node

ROOT = Path(__file__).parents[2]
SHOWN = {"logits", "features", "weights"}
SCORES = [n for n in list_scores() if not get_score(n).trained_by and SHOWN.issuperset(get_score(n).needs)]
NORMALISED: dict[str, Any] = {"mean": MEAN, "std": STD, "device": "cpu"}


def fitted(name: str, folder: Path, four: Arrays, score: str = "energy", **options: Any) -> guard.Guard:
    """A guard of the file that `FILES` describes."""
    onnx.save(build(FILES[name]), folder / "net.onnx")
    numbers = {"device": "cpu"} if name.startswith("uint8") else NORMALISED
    return guard.fit(folder / "net.onnx", four, score=score, **numbers, **options)


def graph_of(path: Path) -> onnx.GraphProto:
    return onnx.load(path).graph


@pytest.mark.parametrize("score", SCORES)
def test_every_score_equals_that_of_the_same_network_in_torch(score: str, tmp_path: Path, four: Arrays) -> None:
    ours = fitted("gemm", tmp_path, four, score)
    theirs = guard.fit(Plain(), four, score=score, **NORMALISED)
    images = np.concatenate([four[0], 255 - four[0][:50]])
    expected = theirs.predict(images).ood_score
    # some scores cancel (vim is a difference), others are near 0 for confident images (entropy)
    within = {"rtol": 1e-5, "atol": 1e-6 + 1e-5 * np.abs(expected).max()}
    np.testing.assert_allclose(ours.predict(images).ood_score, expected, **within)
    path = guard.export(ours, tmp_path / "guard.onnx")
    found = guard.load(path, device="cpu").predict(images)
    np.testing.assert_allclose(found.ood_score, expected, **within)
    assert guard.verify(path, against=theirs, data=four).flag_flips == 0


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("name", FILES)
def test_labels_and_probabilities_are_the_files_own(name: str, tmp_path: Path, four: Arrays) -> None:
    file = FILES[name]
    g = guard.load(guard.export(fitted(name, tmp_path, four, "mahalanobis"), tmp_path / "guard.onnx"), device="cpu")
    x = four[0][:30]
    if file.element != TensorProto.UINT8:
        x = ((x / 255 - MEAN) / STD).astype(np.float16 if file.element == TensorProto.FLOAT16 else np.float32)
    if file.shape[1] == 3:
        x = x.transpose(0, 3, 1, 2)
    session = ort.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    one = session.get_inputs()[0].name
    own = np.concatenate([session.run([file.outputs[-1]], {one: x[i : i + 1]})[0].reshape(1, -1) for i in range(30)])
    own = own.astype(np.float64)
    verdicts = g.predict(four[0][:30])
    within = 1e-2 if file.element == TensorProto.FLOAT16 else 1e-5
    probabilities = {
        "softmax": own,
        "softmax by hand": own,
        "conv head on vector": own,
        "log softmax": np.exp(own),
    }.get(name, softmax(own))
    np.testing.assert_allclose(verdicts.probabilities, probabilities, atol=within)
    assert np.array_equal(verdicts.label, own.argmax(-1))


def test_the_nodes_and_weights_of_the_classifier_stay(tmp_path: Path, four: Arrays) -> None:
    graph = graph_of(guard.export(fitted("dropout reshape", tmp_path, four), tmp_path / "guard.onnx"))
    theirs = build(FILES["dropout reshape"]).graph
    inner = [n for n in graph.node if any(o.startswith("classifier/") for o in n.output)]
    assert [n.op_type for n in inner] == [n.op_type for n in theirs.node]
    assert [n.attribute for n in inner] == [n.attribute for n in theirs.node]
    weights = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    for name in ("weight", "bias"):
        assert np.array_equal(weights[f"classifier/{name}"], WB[name])
    around = [n.op_type for n in graph.node if n not in inner]
    assert around == ["Cast", "Transpose", "ReduceLogSumExp", "Neg", "ArgMax", "Softmax", "LessOrEqual", "Not"]


@pytest.mark.parametrize(
    ("name", "front"),
    [
        ("channels last", ["Cast", "Mul", "Add", "Transpose"]),
        ("half", ["Cast", "Transpose", "Mul", "Add", "Cast", "Conv"]),
        ("uint8 channels last", ["Identity", "Transpose", "Cast"]),
        ("uint8 channels first", ["Cast", "Transpose", "Cast", "Cast"]),
    ],
)
def test_the_front_has_no_step_that_the_input_makes_needless(
    name: str, front: list[str], tmp_path: Path, four: Arrays
) -> None:
    graph = graph_of(guard.export(fitted(name, tmp_path, four), tmp_path / "guard.onnx"))
    assert [node.op_type for node in graph.node][: len(front)] == front


def test_inputs_and_outputs_are_the_contract(tmp_path: Path, four: Arrays) -> None:
    graph = graph_of(guard.export(fitted("fixed batch", tmp_path, four), tmp_path / "guard.onnx"))
    described = {
        v.name: (v.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim])
        for v in [*graph.input, *graph.output]
    }
    assert described == {
        "images": (TensorProto.UINT8, ["batch", 16, 16, 3]),
        "threshold": (TensorProto.FLOAT, []),
        "label": (TensorProto.INT64, ["batch"]),
        "probabilities": (TensorProto.FLOAT, ["batch", 4]),
        "ood_score": (TensorProto.FLOAT, ["batch"]),
        "is_ood": (TensorProto.BOOL, ["batch"]),
    }


def test_names_that_a_guard_has_may_be_the_classifiers_too(tmp_path: Path, four: Arrays) -> None:
    names = [
        node("Conv", "images kernel", "threshold", strides=[2, 2]),
        node("Relu", "threshold", "ood_score"),
        node("GlobalAveragePool", "ood_score", "is_ood"),
        node("Flatten", "is_ood", "features"),
        node("Gemm", "features weight bias", "probabilities", transB=1),
        node("Identity", "probabilities", "label"),
    ]
    model = build(File(names, WB, body=list, outputs=("label",)))
    model.graph.input[0].name = "images"
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    onnx.save(model, tmp_path / "net.onnx")
    g = guard.fit(tmp_path / "net.onnx", four, score="vim", temperature_scaling=True, **NORMALISED)
    theirs = guard.fit(Plain(), four, score="vim", temperature_scaling=True, **NORMALISED)
    path = guard.export(g, tmp_path / "guard.onnx")
    ours = [node.name.removeprefix("score/") for node in graph_of(path).node if node.name.startswith("score/")]
    for index, own in enumerate(model.graph.node):
        own.name = ours[index]
    onnx.save(model, tmp_path / "net.onnx")
    g = guard.fit(tmp_path / "net.onnx", four, score="vim", temperature_scaling=True, **NORMALISED)
    path = guard.export(g, tmp_path / "guard.onnx")  # ONNX Runtime refuses two nodes of one name
    assert guard.verify(path, against=theirs, data=four).flag_flips == 0


def test_features_that_the_score_does_not_read_are_left_out(tmp_path: Path, four: Arrays) -> None:
    kinds = {}
    for score in ("energy", "knn"):
        g = fitted("gemm", tmp_path, four, score, features="map")
        graph = graph_of(guard.export(g, tmp_path / "guard.onnx"))
        kinds[score] = {node.op_type for node in graph.node if node.name.startswith("classifier/")}
    assert kinds["knn"] - kinds["energy"] == {"ReduceMean"}


@pytest.mark.parametrize(("name", "opset"), [("opset 11", 18), ("opset 20", 20), ("opset 22", 20)])
def test_the_opset_is_one_a_guard_may_have(name: str, opset: int, tmp_path: Path, four: Arrays) -> None:
    model = onnx.load(guard.export(fitted(name, tmp_path, four, "knn"), tmp_path / "guard.onnx"))
    assert [(o.domain, o.version) for o in model.opset_import] == [("", opset)]
    onnx.checker.check_model(model, full_check=True)


def test_calibration_per_class_works_on_the_grafted_graph(tmp_path: Path, four: Arrays) -> None:
    g = fitted("softmax", tmp_path, four, "knn", class_conditional=True, temperature_scaling=True)
    path = guard.export(g, tmp_path / "guard.onnx")
    report = guard.verify(path, against=g, data=four)
    assert report.flag_flips == 0
    assert report.max_probability_difference < 1e-5


def test_a_file_predicts_in_a_process_without_torch_and_onnx(tmp_path: Path, four: Arrays) -> None:
    path = guard.export(fitted("gemm", tmp_path, four, "vim"), tmp_path / "guard.onnx")
    np.save(tmp_path / "images.npy", four[0][:20])
    code = f"""
import sys
for name in ("torch", "onnx", "train", "export"):
    sys.modules[name] = None  # importing it raises
import numpy as np, guard
scores = guard.load({str(path)!r}, device="cpu").predict(np.load({str(tmp_path / "images.npy")!r}))
np.save({str(tmp_path / "scores.npy")!r}, scores.ood_score)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    here = guard.load(path, device="cpu").predict(four[0][:20]).ood_score
    np.testing.assert_array_equal(np.load(tmp_path / "scores.npy"), here)


def test_too_large_a_graph_is_refused(tmp_path: Path, four: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    from export import to_onnx

    g = fitted("gemm", tmp_path, four, "knn")
    monkeypatch.setattr(to_onnx, "_PROTOBUF_LIMIT", 4000)
    with pytest.raises(ExportError, match="one ONNX file holds 2"):
        guard.export(g, tmp_path / "guard.onnx")


def test_the_size_that_counts_is_that_of_both_parts(
    tmp_path: Path, four: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    from export import to_onnx

    g = fitted("gemm", tmp_path, four)
    sizes: list[int] = []
    monkeypatch.setattr(to_onnx, "_check_size", sizes.append)
    guard.export(g, tmp_path / "guard.onnx")
    assert len(sizes) == 2  # what torch wrote, then that and the network
    assert sizes[1] > g.module.classifier.graph.numel()
