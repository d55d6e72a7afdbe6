"""ONNX classifier files: what is found in the graph is what the same network computes in torch."""

from __future__ import annotations

import copy
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import guard
from guard.errors import ConfigError, ModelError, UnknownNameError
from guard.graph.onnx_classifier import OnnxClassifier
from guard.requests import FitRequest
from tests.conftest import Arrays
from tests.train.classifiers.onnx_nets import (
    FILES,
    GEMM,
    MEAN,
    SCALE,
    STD,
    WB,
    WEIGHT,
    WEIGHT8,
    WIDTH,
    File,
    Plain,
    build,
    node,
    pooled,
)
from tests.train.models import Dropped
from train.classifiers import GivenClassifier
from train.classifiers.onnx.file import of_onnx_file

NORMALISED = {"mean": MEAN, "std": STD}


def saved(model: onnx.ModelProto, folder: Path, name: str = "net.onnx") -> Path:
    onnx.save(model, folder / name)
    return folder / name


def opened(path: Path, data: Any = None, **arguments: Any) -> GivenClassifier:
    return of_onnx_file(path, FitRequest(model=path, data=data, **{**NORMALISED, **arguments}))


def arguments_of(name: str) -> dict[str, Any]:
    return dict.fromkeys(NORMALISED) if name.startswith("uint8") else {}


@pytest.mark.parametrize("name", FILES)
def test_features_logits_and_weights_are_those_of_the_network(name: str, tmp_path: Path, four: Arrays) -> None:
    base = opened(saved(build(FILES[name]), tmp_path), four, **arguments_of(name))
    assert (base.preprocess.height, base.preprocess.width, base.preprocess.channels) == (16, 16, 3)
    classifier = base.model
    assert isinstance(classifier, OnnxClassifier)
    assert classifier.shows() == {"logits", "features", "weights"}
    weight = SCALE * WEIGHT8.astype(np.float32) if name == "quantised weight" else WEIGHT
    net = Plain(weight)
    pixels = torch.from_numpy(four[0][:5]).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    own = (pixels / 255 - mean) / std
    outputs = classifier(pixels.float() if name.startswith("uint8") else own)
    within = 2e-2 if name == "half" else 1e-5
    with torch.no_grad():
        torch.testing.assert_close(outputs.features, net.features(own), rtol=within, atol=within)
        torch.testing.assert_close(outputs.logits, net(own), rtol=within, atol=within)
    last = classifier.last_layer()
    assert last is not None
    torch.testing.assert_close(last.weight, net.last.weight, rtol=within, atol=within)
    torch.testing.assert_close(last.bias, net.last.bias, rtol=within, atol=within)
    assert classifier.num_features == WIDTH


def test_pixels_reach_a_uint8_graph_unchanged(tmp_path: Path) -> None:
    base = opened(saved(build(FILES["uint8 channels last"]), tmp_path), mean=None, std=None)
    every = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 16, 16, 3)
    scale, shift = 1 / (255 * torch.tensor(base.normalisation.std)), -torch.tensor(base.normalisation.mean)
    x = (every * scale + shift).permute(0, 3, 1, 2) * (1 - 1e-7)
    assert np.array_equal(base.model.image_input().feed(x)["images"], every.numpy())


def test_weights_in_another_file_are_read(tmp_path: Path, four: Arrays) -> None:
    inside = opened(saved(build(FILES["gemm"]), tmp_path), four).model
    onnx.save(
        build(FILES["gemm"]), tmp_path / "outside.onnx", save_as_external_data=True, location="weights.bin",
        size_threshold=0,
    )  # fmt: skip
    outside = opened(tmp_path / "outside.onnx").model
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(outside(x).logits, inside(x).logits)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"keeps its weights in another file.*put both in one folder"):
        opened(tmp_path / "outside.onnx")


@pytest.mark.parametrize("optimize", [True, False])
def test_a_file_that_torch_wrote(optimize: bool, tmp_path: Path) -> None:
    net = Dropped().eval()
    program = torch.onnx.export(
        net, (torch.zeros(2, 3, 16, 16),), dynamo=True, dynamic_shapes=({0: "n"},), optimize=optimize, verbose=False
    )
    program.save(tmp_path / "net.onnx")
    classifier = opened(tmp_path / "net.onnx").model
    x = torch.randn(3, 3, 16, 16)
    outputs = classifier(x)
    with torch.no_grad():
        features = net.hidden(net.features(x)).relu()
        torch.testing.assert_close(outputs.features, features, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(outputs.logits, net.last(features), rtol=1e-5, atol=1e-5)
    assert torch.equal(classifier.last_layer().weight, net.last.weight)


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [("pool", lambda m: m.mean((2, 3))), ("map", lambda m: m.mean((2, 3))), ("tokens", lambda m: m[:, :, 0, 0])],
)
def test_features_may_be_any_tensor(tensor: str, expected: Any, tmp_path: Path) -> None:
    tokens = [node("Flatten", "map", "flat", axis=1), node("Reshape", "map places", "t"),
              node("Transpose", "t", "tokens", perm=[0, 2, 1]), node("ReduceMean", "tokens", "v", axes=[1], keepdims=0),
              node("Gemm", "v weight bias", "logits", transB=1)]  # fmt: skip
    file = File(tokens, {**WB, "places": np.array([0, WIDTH, -1])}, body=lambda: pooled()[:2])
    if tensor == "pool":
        file = FILES["gemm"]
    classifier = opened(saved(build(file), tmp_path), features=tensor).model
    x = torch.randn(2, 3, 16, 16)
    maps = torch.nn.functional.conv2d(x, Plain().kernel, stride=2).relu()
    torch.testing.assert_close(classifier(x).features, expected(maps), rtol=1e-5, atol=1e-5)
    # averaged maps are what the last layer reads here; the first token is not
    assert ("weights" in classifier.shows()) == (tensor != "tokens")


def test_without_a_linear_layer_scores_of_logits_remain(tmp_path: Path, four: Arrays) -> None:
    squared = File([*GEMM[:-1], node("Gemm", "flat weight bias", "z", transB=1), node("Mul", "z z", "logits")], WB)
    path = saved(build(squared), tmp_path)
    g = guard.fit(path, four, score="energy", device="cpu", **NORMALISED)
    assert g.module.classifier.shows() == {"logits"}
    assert guard.verify(guard.export(g, tmp_path / "guard.onnx"), against=g, data=four).flag_flips == 0
    with pytest.raises(ModelError, match=r"score 'knn' needs .*; no linear .*features=, e.g. z, flat, pool, map"):
        guard.fit(path, four, score="knn", device="cpu", **NORMALISED)
    with pytest.raises(ModelError, match=r"score 'vim' needs .*weights.*; no linear layer"):
        guard.fit(path, four, score="vim", features="flat", device="cpu", **NORMALISED)
    assert guard.fit(path, four, score="knn", features="flat", device="cpu", **NORMALISED).manifest.score == "knn"
    with pytest.raises(UnknownNameError, match=r"unknown tensor 'flot'; did you mean 'flat'"):
        opened(path, features="flot")


@pytest.mark.parametrize("name", ["gemm", "open size", "uint8 channels last"])
def test_list_scores_knows_what_a_file_shows(name: str, tmp_path: Path) -> None:
    rows = {row.name: row for row in guard.list_scores(model=saved(build(FILES[name]), tmp_path)).rows}
    assert rows["vim"].applies
    assert not rows["gram"].applies


@pytest.mark.parametrize("score", ["odin", "gram"])
def test_scores_that_look_inside_are_refused(score: str, tmp_path: Path, four: Arrays) -> None:
    path = saved(build(FILES["gemm"]), tmp_path)
    with pytest.raises(ModelError, match=rf"score '{score}' needs .*; net.onnx is an ONNX graph, which shows only"):
        guard.fit(path, four, score=score, device="cpu", **NORMALISED)


def test_a_dropped_softmax_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ood_guard"):
        opened(saved(build(FILES["softmax"]), tmp_path))
    assert "net.onnx ends in a Softmax: its input is taken for the logits" in caplog.text


REFUSED: dict[str, tuple[File, str]] = {
    "sigmoid": (
        File([node("Gemm", "flat weight bias", "z", transB=1), node("Sigmoid", "z", "logits")], WB),
        "ends in a Sigmoid, which judges every class by itself",
    ),
    "two outputs": (
        File([*GEMM, node("Mul", "logits logits", "squares")], WB, outputs=("logits", "squares")),
        r"any of the outputs logits, squares could be the logits; .*extract_model\(.*'one.onnx', \['x'\], \['logits'\]",
    ),
    "no logits": (
        File([*GEMM, node("ArgMax", "logits", "label", axis=1, keepdims=0)], WB, outputs=("label",)),
        r"no output is logits \(N, C\).*label \(1,\)",
    ),
    "batch norm of the batch": (
        File([node("ReduceMean", "flat", "m", axes=[0], keepdims=1), node("Sub", "flat m", "c"),
              node("Gemm", "c weight bias", "logits", transB=1)], WB),
        "depends on the images beside it .*: ReduceMean 'm' computes over the batch",
    ),
    "flat images": (File(GEMM, WB, shape=("n", 3, 256)), r"takes float \('n', 3, 256\) as 'x'; images are"),
    "four channels": (File(GEMM, WB, shape=("n", 4, 16, 16)), "have 4 channels"),
    "integers": (File(GEMM, WB, element=TensorProto.INT32), "takes int32"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_image_classifier_is_refused(name: str, tmp_path: Path, four: Arrays) -> None:
    file, sentence = REFUSED[name]
    with pytest.raises(ModelError, match=sentence):
        opened(saved(build(file), tmp_path), four)


def test_a_fixed_batch_that_cannot_be_freed_says_how_to_write_the_file(tmp_path: Path) -> None:
    one = {"token": np.ones((1, 1, WIDTH), np.float32), "one": np.array([1, 1, WIDTH]), "axis": np.array([1])}
    head = [
        node("Unsqueeze", "flat axis", "u"),
        node("Expand", "token one", "e"),  # as a vision transformer's class token
        node("Concat", "e u", "both", axis=1),
        node("ReduceMean", "both", "v", axes=[1], keepdims=0),
        node("Gemm", "v weight bias", "logits", transB=1),
    ]
    file = File(head, {**WB, **one}, shape=(1, 3, 16, 16))
    with pytest.raises(ModelError, match=r"the graph, written for batches of 1, .*dynamic_shapes=\(\{0: 'batch'\},\)"):
        opened(saved(build(file), tmp_path))


def test_foreign_operators_are_named(tmp_path: Path) -> None:
    file = File(
        [
            helper.make_node("Gelu", ["flat"], ["z"], domain="com.microsoft"),
            node("Gemm", "z weight bias", "logits", transB=1),
        ],
        WB,
    )
    model = build(file)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(ModelError, match=r"operators outside the ONNX standard \(com.microsoft.Gelu\)"):
        opened(saved(model, tmp_path))


def test_files_that_are_no_classifier_meet_a_sentence(tmp_path: Path, four: Arrays) -> None:
    path = saved(build(FILES["gemm"]), tmp_path)
    whole = path.read_bytes()
    for content, sentence in (
        (b"", "is empty"),
        (b"not a model" * 20, "is not an ONNX file"),
        (whole[:-300], "cut short"),
    ):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(ModelError, match=rf"bad.onnx .*{sentence}"):
            opened(tmp_path / "bad.onnx")
    with pytest.raises(ModelError, match=r"no such ONNX file: .*absent.onnx"):
        opened(tmp_path / "absent.onnx")
    broken = build(FILES["gemm"])
    del broken.graph.initializer[0]
    with pytest.raises(ModelError, match=r"broken.onnx is damaged: .*kernel"):
        opened(saved(broken, tmp_path, "broken.onnx"))
    g = guard.fit(path, four, device="cpu", **NORMALISED)
    guard.export(g, tmp_path / "guard.onnx")
    with pytest.raises(ModelError, match=r"guard.onnx is a guard already: load it with guard.load"):
        opened(tmp_path / "guard.onnx")


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("gemm", {"image_size": 32}, r"image_size=32, but the ONNX graph takes 16 x 16"),
        ("gemm", {"in_chans": 1}, r"in_chans=1, but the ONNX graph takes 3"),
        ("uint8 channels last", {}, "omit mean= and std="),
    ],
)
def test_arguments_that_the_graph_contradicts(
    name: str, arguments: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        opened(saved(build(FILES[name]), tmp_path), **arguments)


def test_the_number_of_classes_must_be_the_datas(tmp_path: Path, digits: Any) -> None:
    path = saved(build(FILES["gemm"]), tmp_path)
    with pytest.raises(ModelError, match="the model answers 4 classes, the data has 3"):
        guard.fit(path, digits("0-2"), device="cpu", **NORMALISED)


def test_copies_pickles_and_loaded_state_answer_for_themselves(tmp_path: Path) -> None:
    classifier = opened(saved(build(FILES["gemm"]), tmp_path)).model
    x = torch.randn(2, 3, 16, 16)
    before = classifier(x).logits
    assert torch.equal(copy.deepcopy(classifier)(x).logits, before)
    assert torch.equal(pickle.loads(pickle.dumps(classifier))(x).logits, before)
    other = build(FILES["gemm"])
    bias = next(i for i in other.graph.initializer if i.name == "bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.zeros(4, np.float32), "bias"))
    classifier.load_state_dict(opened(saved(other, tmp_path)).model.state_dict())
    assert not torch.equal(classifier(x).logits, before)


def test_run_folders_hold_the_graph(tmp_path: Path, four: Arrays) -> None:
    path = saved(build(FILES["channels last"]), tmp_path, "mine.onnx")
    g = guard.fit(str(path), four, score="vim", device="cpu", out=tmp_path / "run", **NORMALISED)
    path.unlink()
    expected = g.predict(four[0][:40]).ood_score
    loaded = guard.Guard.from_pretrained(tmp_path / "run", device="cpu")
    np.testing.assert_array_equal(loaded.predict(four[0][:40]).ood_score, expected)
    with pytest.raises(ConfigError, match=r"holds its classifier, the graph of mine.onnx; omit model="):
        guard.Guard.from_pretrained(tmp_path / "run", device="cpu", model=Plain())
    again = guard.fit(tmp_path / "run", four, score="knn", device="cpu", out=tmp_path / "knn")
    assert (again.manifest.backbone, again.manifest.score) == ("mine", "knn")
    exported = guard.export(tmp_path / "knn", tmp_path / "guard.onnx")
    assert guard.verify(exported, against=again, data=four).flag_flips == 0


@pytest.mark.parametrize("sides", [(16, 16), ("h", "w")])
def test_classes_that_are_named_may_lack_images(sides: tuple[Any, Any], tmp_path: Path, four: Arrays) -> None:
    """As they may with a torch module, whether or not the graph says the size of its images."""
    there = four[1] != 1
    path = saved(build(FILES["gemm"]._replace(shape=("n", 3, *sides))), tmp_path)
    names = ["a", "b", "c", "d"]
    g = guard.fit(path, (four[0][there], four[1][there]), class_names=names, score="energy", device="cpu", **NORMALISED)
    assert g.manifest.class_names == tuple(names)
