"""Graft a guard onto the graph of an ONNX classifier: pixels in front, the score behind, its own nodes in between.

    images uint8 (N, H, W, channels) -> Cast -> Transpose -> Mul, Add -> classifier/...  -> logits, features
    logits, features, threshold -> score/... -> label, probabilities, ood_score, is_ood

The nodes and weights of the classifier stay what they are; their names get a prefix, so that none is used twice.
torch writes the part behind from the fitted score alone. Steps in front that the input makes needless are left out: a
graph of channels-last images gets no Transpose, one of uint8 pixels no arithmetic.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx.version_converter
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from guard.calibration.decision_rule import flagged
from guard.graph.onnx_classifier import ImageInput
from guard.graph.onnx_nodes import opset, prefix, prune
from guard.scores import Score


class ScorePart(nn.Module):
    """What comes after the classifier: features (N, D), logits (N, C), threshold () -> the outputs of a guard."""

    def __init__(self, score: Score) -> None:
        super().__init__()
        self.score = score

    def forward(self, features: Tensor, logits: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ood_score = self.score(features, logits, None)
        return logits.argmax(-1), logits.softmax(-1), ood_score, flagged(ood_score, threshold)


def graft(
    net: ModelProto, score_part: ModelProto, images: ImageInput, scale: Tensor, shift: Tensor, *, bgr: bool = False
) -> ModelProto:
    """One graph of a classifier's and a `ScorePart`'s.

    Args:
        net: the graph of a `guard.graph.onnx_classifier.OnnxClassifier`; changed.
        score_part: inputs features, logits, threshold; outputs those of a guard; changed.
        images: the input of `net`.
        scale, shift: pixel * scale + shift is what `net` takes, one value per channel.
        bgr: whether it takes blue first.
    """
    if opset(score_part) != opset(net):  # older releases of torch write 18 whatever they are asked for
        score_part = onnx.version_converter.convert_version(score_part, opset(net))
    (given,) = net.graph.input
    shape = [d.dim_value for d in given.type.tensor_type.shape.dim][1:]
    height, width, channels = shape if images.channels_last else (*shape[1:], shape[0])
    prefix(net.graph, "classifier/")
    logits, *features = (output.name for output in net.graph.output)
    theirs = {"logits": logits, "features": features[0] if features else "", "threshold": "threshold"}
    theirs |= {output.name: output.name for output in score_part.graph.output}
    prefix(score_part.graph, "score/", keep=theirs)
    front, constants = _front(images, f"classifier/{images.name}", scale, shift, bgr)
    graph = helper.make_graph(
        [*front, *net.graph.node, *score_part.graph.node],
        "guard",
        [
            helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", height, width, channels]),
            *(value for value in score_part.graph.input if value.name == "threshold"),
        ],
        list(score_part.graph.output),
        [*constants, *net.graph.initializer, *score_part.graph.initializer],
    )
    prune(graph)
    return helper.make_model(
        graph, opset_imports=list(net.opset_import), ir_version=max(net.ir_version, score_part.ir_version)
    )


def _front(
    images: ImageInput, target: str, scale: Tensor, shift: Tensor, bgr: bool
) -> tuple[list[NodeProto], list[TensorProto]]:
    """Nodes from `images` to the classifier's input `target`, and their constants."""
    steps: list[NodeProto] = []
    constants: list[TensorProto] = []
    pixels = images.dtype == np.uint8
    if not (pixels and images.channels_last):
        steps.append(helper.make_node("Cast", [], [], to=TensorProto.FLOAT))
    if not images.channels_last:  # after the cast: TensorRT has no uint8 transpose
        steps.append(helper.make_node("Transpose", [], [], perm=[0, 3, 1, 2]))
    if bgr:
        constants.append(numpy_helper.from_array(np.array([2, 1, 0], np.int64), "pixels/bgr"))
        steps.append(helper.make_node("Gather", [constants[-1].name], [], axis=3 if images.channels_last else 1))
    if not pixels:
        for kind, value in (("Mul", scale), ("Add", shift)):
            array = value.reshape((1, 1, 1, -1) if images.channels_last else (1, -1, 1, 1)).numpy()
            constants.append(numpy_helper.from_array(array, f"pixels/{kind.lower()}"))
            steps.append(helper.make_node(kind, [constants[-1].name], []))
    if images.dtype != np.float32 and (steps or not pixels):
        steps.append(helper.make_node("Cast", [], [], to=helper.np_dtype_to_tensor_dtype(images.dtype)))
    if not steps:
        steps.append(helper.make_node("Identity", [], []))
    name = "images"
    for index, step in enumerate(steps):
        step.input.insert(0, name)
        name = target if index == len(steps) - 1 else f"pixels/{index}"
        step.output.append(name)
        step.name = f"node_{name}"
    return steps, constants


def example(num_features: int, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs for tracing a `ScorePart`: two rows, since a single one would be taken for a constant."""
    return torch.zeros(2, num_features), torch.zeros(2, num_classes), torch.tensor(0.0)
