"""What the exported graph is made of. That it computes the same is tested per head and score elsewhere."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto

from export import to_onnx
from export.to_onnx import ExportError, onnx_bytes
from guard.graph.module import GuardModule
from guard.graph.outputs import Classifier
from guard.heads import create_head, list_heads
from guard.manifest import Manifest, Normalisation, Preprocess
from guard.scores import Score, create_score
from train.backbones import create_backbone

NORMALISATION = Normalisation(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


def guard(
    backbone: str, head: str = "linear", score: str = "energy", channels: int = 3
) -> tuple[GuardModule, Manifest]:
    """An untrained guard whose batch norms do something."""
    torch.manual_seed(0)
    network = create_backbone(backbone, image_size=32, in_chans=channels)
    classifier = Classifier(network, create_head(head, network.num_features, 5))
    for module in classifier.modules():
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    made: Score = create_score(score)
    if score == "cosine":
        features = torch.randn(10, network.num_features)
        made.fit(features, classifier.head(features).detach(), torch.arange(10) % 5, classifier.last_layer())
    normalisation = Normalisation(mean=NORMALISATION.mean[:channels], std=NORMALISATION.std[:channels])
    manifest = Manifest(
        class_names=tuple("abcde"),
        preprocess=Preprocess(height=32, width=32, channels=channels),
        normalisation=normalisation,
        method="plain",
        backbone=backbone,
        head=head,
        score=score,
    )
    return GuardModule(classifier, made, normalisation).eval(), manifest


def added(model: onnx.ModelProto) -> Counter[str]:
    """The operators outside a small ResNet."""
    return Counter(
        node.op_type for node in model.graph.node if node.op_type not in ("Conv", "Relu", "BatchNormalization")
    )


@pytest.mark.parametrize(("backbone", "residuals"), [("wrn10_2", 3), ("resnet18_small", 8)])
def test_a_guard_adds_nine_nodes(backbone: str, residuals: int) -> None:
    module, manifest = guard(backbone)
    graph = added(onnx.load_from_string(onnx_bytes(module, manifest)))
    graph -= Counter(Add=residuals, Reshape=1)  # the pooling's flatten
    around = ["Cast", "Sub", "Transpose", "ReduceLogSumExp", "Neg", "ArgMax", "Softmax", "LessOrEqual", "Not"]
    assert graph == Counter([*around, "ReduceMean", "Gemm"])


def test_a_cosine_head_adds_three_more() -> None:
    module, manifest = guard("wrn10_2", "cosine", "cosine")
    graph = added(onnx.load_from_string(onnx_bytes(module, manifest)))
    graph -= Counter(Add=3)
    around = ["Cast", "Sub", "Transpose", "ReduceL2", "Clip", "Div", "ReduceMax", "Mul", "ArgMax", "Softmax"]
    assert graph == Counter([*around, "LessOrEqual", "Not", "ReduceMean", "Gemm"])


def test_the_cast_comes_before_the_transpose() -> None:
    module, manifest = guard("wrn10_2")
    first, *others = onnx.load_from_string(onnx_bytes(module, manifest)).graph.node[:3]
    assert (first.op_type, first.input[0]) == ("Cast", "images")
    assert "Transpose" in [node.op_type for node in others]


@pytest.mark.parametrize(
    ("backbone", "head", "channels"),
    [
        *((backbone, "linear", channels) for backbone in ("wrn10_2", "vit_tiny_patch16_224") for channels in (1, 3)),
        *(("wrn10_2", head, 3) for head in list_heads() if head != "linear"),
    ],
)
def test_the_folded_graph_computes_what_torch_does(backbone: str, head: str, channels: int) -> None:
    module, manifest = guard(backbone, head, channels=channels)
    session = ort.InferenceSession(onnx_bytes(module, manifest), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).integers(0, 256, (7, 32, 32, channels), dtype=np.uint8)
    threshold = np.array(-1.7, np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(images), torch.from_numpy(threshold))
    found = session.run(None, {"images": images, "threshold": threshold})
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1e3, 1e5])  # exp of it overflows float32
def test_the_energy_of_large_logits_stays_finite(size: float) -> None:
    module, manifest = guard("wrn10_2")
    with torch.no_grad():
        module.classifier.head.linear.bias.fill_(size)
    session = ort.InferenceSession(onnx_bytes(module, manifest), providers=["CPUExecutionProvider"])
    score = session.run(["ood_score"], {"images": np.zeros((2, 32, 32, 3), np.uint8)})[0]
    np.testing.assert_allclose(score, -size, rtol=0.05)


def test_another_opset_than_asked_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module, manifest = guard("wrn10_2")
    monkeypatch.setattr(to_onnx, "OLDEST_OPSET", 30)
    with pytest.raises(ExportError, match="opset 20"):
        onnx_bytes(module, manifest)


def test_the_file_names_no_path_of_this_machine() -> None:
    module, manifest = guard("wrn10_2")
    graph = onnx_bytes(module, manifest)
    for path in (Path(torch.__file__).parents[1], Path(to_onnx.__file__).parents[1]):
        assert str(path).encode() not in graph


def test_inputs_and_outputs_are_the_contract() -> None:
    module, manifest = guard("wrn10_2")
    graph = onnx.load_from_string(onnx_bytes(module, manifest)).graph

    def described(values: list[onnx.ValueInfoProto]) -> dict[str, tuple[int, list[object]]]:
        return {
            v.name: (
                v.type.tensor_type.elem_type,
                [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim],
            )
            for v in values
        }

    assert described(graph.input) == {
        "images": (TensorProto.UINT8, ["batch", 32, 32, 3]),
        "threshold": (TensorProto.FLOAT, []),
    }
    assert described(graph.output) == {
        "label": (TensorProto.INT64, ["batch"]),
        "probabilities": (TensorProto.FLOAT, ["batch", 5]),
        "ood_score": (TensorProto.FLOAT, ["batch"]),
        "is_ood": (TensorProto.BOOL, ["batch"]),
    }
