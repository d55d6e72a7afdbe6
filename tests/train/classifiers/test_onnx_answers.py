"""ONNX files as converters write them: sizes of -1, mappings per image, one column, a softmax by hand."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import guard
from guard.errors import ModelError
from tests.conftest import Arrays
from tests.train.classifiers.onnx_nets import BIAS, CLASSES, FILES, WB, WEIGHT, File, build, node

FIT: dict[str, Any] = {"device": "cpu", "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3)}
NAMES = ["a", "b", "c", "d"]


def saved(model: ModelProto, folder: Path, name: str = "net.onnx") -> Path:
    onnx.save(model, folder / name)
    return folder / name


def scores(path: Path, data: Any, **options: Any) -> np.ndarray:
    return guard.fit(path, data, **{**FIT, **options}).predict(data[0][:40]).ood_score


@pytest.mark.parametrize("dims", [(0,), (0, 2, 3)], ids=["batch", "batch and sides"])
def test_a_size_of_minus_one_is_any_size(dims: tuple[int, ...], four: Arrays, tmp_path: Path) -> None:
    model = build(FILES["gemm"])
    expected = scores(saved(model, tmp_path), four)
    for i in dims:
        model.graph.input[0].type.tensor_type.shape.dim[i].dim_value = -1
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = -1
    np.testing.assert_allclose(scores(saved(model, tmp_path, "paddle.onnx"), four), expected, rtol=1e-5)


@pytest.mark.parametrize("labels", [{"classlabels_strings": NAMES}, {"classlabels_int64s": [0, 1, 2, 3]}])
def test_a_mapping_per_image_is_read_as_numbers_and_names(labels: Any, four: Arrays, tmp_path: Path) -> None:
    model = build(FILES["softmax"])
    expected = scores(saved(model, tmp_path), four)
    graph = model.graph
    graph.node.append(helper.make_node("ZipMap", ["p"], ["loss"], domain="ai.onnx.ml", **labels))
    graph.node.append(node("ArgMax", "p", "index", axis=1, keepdims=0))
    graph.node.append(helper.make_node("ArrayFeatureExtractor", ["names", "index"], ["label"], domain="ai.onnx.ml"))
    graph.initializer.append(helper.make_tensor("names", TensorProto.STRING, [4], [n.encode() for n in NAMES]))
    del graph.output[:]
    graph.output.extend(
        [helper.make_tensor_value_info("label", TensorProto.STRING, ["n"]), helper.make_empty_tensor_value_info("loss")]
    )
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 2))
    g = guard.fit(saved(model, tmp_path, "custom_vision.onnx"), four, **FIT)
    np.testing.assert_allclose(g.predict(four[0][:40]).ood_score, expected, rtol=1e-5)
    if "classlabels_strings" in labels:
        assert g.class_names == tuple(NAMES)
    exported = guard.load(guard.export(g, tmp_path / "guard.onnx"), device="cpu")
    np.testing.assert_allclose(exported.predict(four[0][:40]).ood_score, expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["net.ONNX", "net.Onnx"])
def test_the_case_of_the_ending_is_nothing(name: str, four: Arrays, tmp_path: Path) -> None:
    shutil.copy(saved(build(FILES["gemm"]), tmp_path), tmp_path / name)
    assert guard.fit(str(tmp_path / name), four, **FIT).manifest.backbone == "net"
    assert guard.list_scores(model=tmp_path / name)


W1, B1 = WEIGHT[1:2] - WEIGHT[:1], BIAS[1:2] - BIAS[:1]
ONE = {"weight": W1, "bias": B1}
Z = node("Gemm", "flat weight bias", "z", transB=1)


def two(four: Arrays) -> Arrays:
    return four[0][four[1] < 2], four[1][four[1] < 2]


COLUMNS: dict[str, tuple[list[Any], tuple[int, ...], str]] = {
    "logit": ([Z, node("Identity", "z", "p")], (1,), "binary"),
    "flat logit": ([Z, node("Squeeze", "z axis", "p")], (), "binary"),
    "sigmoid": ([Z, node("Sigmoid", "z", "p")], (1,), "sigmoid"),
    "flat sigmoid": ([Z, node("Sigmoid", "z", "s"), node("Squeeze", "s axis", "p")], (), "sigmoid"),
    "sigmoid by hand": (
        [Z, node("Neg", "z", "m"), node("Exp", "m", "e"), node("Add", "e one", "s"), node("Reciprocal", "s", "p")],
        (1,),
        "sigmoid",
    ),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_one_column_is_a_classifier_of_two_classes(name: str, four: Arrays, tmp_path: Path) -> None:
    nodes, shape, outputs = COLUMNS[name]
    model = build(File(nodes, {**ONE, "axis": np.array([1]), "one": np.array(1, np.float32)}, outputs=("p",)))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("p", TensorProto.FLOAT, ["n", *shape]))
    path = saved(model, tmp_path)
    with pytest.raises(ModelError, match=r"one number per image, as a classifier of two classes .*outputs='"):
        guard.fit(path, two(four), **FIT)
    # the same two classes, by a last layer of two rows
    both = saved(build_two(), tmp_path, "two.onnx")
    expected = guard.fit(both, two(four), **FIT).predict(four[0][:40])
    g = guard.fit(path, two(four), outputs=outputs, **FIT)
    found = g.predict(four[0][:40])
    np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=1e-3, atol=1e-5)
    assert found.label.tolist() == expected.label.tolist()
    assert guard.verify(guard.export(g, tmp_path / "guard.onnx"), against=g, data=two(four)).flag_flips == 0
    if name in ("logit", "sigmoid"):
        assert guard.fit(path, two(four), outputs=outputs, score="vim", **FIT).manifest.score == "vim"


def build_two() -> ModelProto:
    zero = np.zeros_like(W1)
    head = node("Gemm", "flat weight bias", "logits", transB=1)
    model = build(File([head], {"weight": np.concatenate([zero, W1]), "bias": np.concatenate([0 * B1, B1])}))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2
    return model


def test_a_sigmoid_per_class_is_taken_where_it_is_asked_for(four: Arrays, tmp_path: Path) -> None:
    sigmoid = File([Z, node("Sigmoid", "z", "logits")], WB)
    expected = scores(saved(build(FILES["gemm"]), tmp_path, "plain.onnx"), four)
    found = scores(saved(build(sigmoid), tmp_path), four, outputs="sigmoid")
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    with pytest.raises(ModelError, match=r"is that of a sigmoid, not of softmax; omit outputs='softmax'"):
        scores(tmp_path / "net.onnx", four, outputs="softmax")


def test_percentages_and_constants_are_refused(four: Arrays, tmp_path: Path) -> None:
    percent = File(
        [Z, node("Softmax", "z", "s"), node("Mul", "s hundred", "logits")], {**WB, "hundred": np.array(100, np.float32)}
    )
    with pytest.raises(ModelError, match="returns percentages"):
        scores(saved(build(percent), tmp_path), four)
    same = File([Z, node("Mul", "z nothing", "logits")], {**WB, "nothing": np.array(0, np.float32)})
    with pytest.raises(ModelError, match="returns the same numbers for every image"):
        scores(saved(build(same), tmp_path), four)


def test_probabilities_whose_logits_are_not_in_the_graph_serve_msp(four: Arrays, tmp_path: Path) -> None:
    average = File(  # of two softmaxes
        [Z, node("Softmax", "z", "s"), node("Mul", "z half", "y"), node("Softmax", "y", "t"), node("Sum", "s t", "u"),
         node("Mul", "u half", "p")], {**WB, "half": np.array(0.5, np.float32)}, outputs=("p",),
    )  # fmt: skip
    path = saved(build(average), tmp_path)
    with pytest.raises(ModelError, match=r"returns probabilities .*outputs='softmax'"):
        scores(path, four)
    with pytest.raises(ModelError, match="score 'energy' reads the size of the logits"):
        scores(path, four, outputs="softmax")
    g = guard.fit(path, four, outputs="softmax", score="msp", out=tmp_path / "run", **FIT)
    verdicts = g.predict(four[0][:40])
    np.testing.assert_allclose(verdicts.ood_score, -verdicts.probabilities.max(1), rtol=1e-4)
    assert verdicts.probabilities.shape == (40, CLASSES)
    assert guard.fit(tmp_path / "run", four, score="entropy", device="cpu").manifest.score == "entropy"


@pytest.mark.parametrize("outputs", ["auto", "sigmoid"])
def test_an_embedding_beside_a_binary_answer_is_no_answer(outputs: str, four: Arrays, tmp_path: Path) -> None:
    head = [
        node("Gemm", "flat weight bias", "z", transB=1),
        node("Sigmoid", "z", "p"),
        node("Identity", "flat", "embedding"),
    ]
    model = build(File(head, {"weight": W1, "bias": B1}, outputs=("p", "embedding")))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    path = saved(model, tmp_path)
    if outputs == "auto":  # as of a column alone
        with pytest.raises(ModelError, match=r"one number per image, as a classifier of two classes .*outputs='"):
            guard.fit(path, two(four), **FIT)
        return
    expected = guard.fit(saved(build_two(), tmp_path, "two.onnx"), two(four), **FIT).predict(four[0][:40])
    found = guard.fit(path, two(four), outputs=outputs, **FIT).predict(four[0][:40])
    np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=1e-3, atol=1e-5)


SQUARES = File([node("Gemm", "flat weight bias", "logits", transB=1), node("Mul", "logits logits", "squares")], WB,
               outputs=("logits", "squares"))  # fmt: skip


@pytest.mark.parametrize("form", [Path, str])
def test_names_in_a_file_tell_the_outputs_apart(form: Any, four: Arrays, tmp_path: Path) -> None:
    head = [node("Gemm", "flat weight bias", "logits", transB=1), node("Identity", "flat", "embedding")]
    path = saved(build(File(head, WB, outputs=("logits", "embedding"))), tmp_path)
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    assert guard.fit(path, four, class_names=form(tmp_path / "names.txt"), **FIT).class_names == tuple(NAMES)


def test_what_nobody_gave_is_not_blamed(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="any of the outputs logits, squares could be the logits"):
        guard.list_scores(model=saved(build(SQUARES), tmp_path))


@pytest.mark.parametrize("asked", [{}, {"in_chans": 1}])
@pytest.mark.parametrize("channels", [1, "c"])
def test_a_grey_file_is_known_by_its_first_convolution(
    channels: int | str, asked: dict[str, int], four: Arrays, tmp_path: Path
) -> None:
    model = build(FILES["gemm"]._replace(shape=("n", channels, 16, 16)))
    kernel = next(constant for constant in model.graph.initializer if constant.name == "kernel")
    kernel.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(kernel)[:, :1].copy(), "kernel"))
    g = guard.fit(saved(model, tmp_path), four, device="cpu", mean=0.5, std=0.2, **asked)
    assert g.manifest.preprocess.channels == 1
