"""The graphs that `benchmarks.latency` times: guards of untrained networks, and the bare networks beside them.

Weights are untrained with random batch-norm statistics (time does not depend on their values, but an untrained
ResNet's zeroed branches could be optimised away); 10 classes; scores are fitted on random features.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn

from export.to_onnx import OPSET, onnx_bytes
from guard.data import load
from guard.graph.module import GuardModule
from guard.graph.outputs import Classifier
from guard.heads import create_head
from guard.manifest import Manifest, Normalisation, Preprocess
from guard.scores import Score, create_score
from guard.scores.energy_logistic import EnergyLogistic
from guard.scores.rejection import Rejection
from train.backbones import create_backbone
from train.features.extract import fit_score

CLASSES = 10
BANK = 5000
IMAGES = 200  # that a score of layers is fitted on
ROWS = 6000  # features that a score is fitted on, or as many as its bank holds
NORMALISATION = Normalisation(mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616))


def fresh_classifier(backbone: str, head: str, pixels: int) -> Classifier:
    """An untrained classifier in eval mode whose batch norms do something."""
    torch.manual_seed(0)
    network = create_backbone(backbone, image_size=pixels)
    classifier = Classifier(network, create_head(head, network.num_features, CLASSES))
    for module in classifier.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return classifier.eval()


def fitted_score(name: str, classifier: Classifier, pixels: int, **options: Any) -> Score:
    """The score with plausible state: fitted on random features (of random images where it reads layers), or given a
    link or a network as its method would."""
    score = create_score(name, **({"max_bank": BANK} if name == "knn" else {}) | options)
    if isinstance(score, Rejection):
        score.build(classifier.num_features)
    elif isinstance(score, EnergyLogistic):
        score.set_link(torch.rand(CLASSES) + 0.5, torch.tensor(2.0), torch.tensor(0.3))
    elif "layer maps" in score.needs:
        images = np.random.default_rng(0).integers(0, 256, (IMAGES, pixels, pixels, 3), dtype=np.uint8)
        fit_score(GuardModule(classifier, score, NORMALISATION), load((images, np.arange(IMAGES) % CLASSES)))
    else:
        rows = max(ROWS, options.get("max_bank", 0))
        features = torch.randn(rows, classifier.num_features).abs()
        logits = classifier.head(features).detach()
        score.fit(features, logits, torch.arange(rows) % CLASSES, classifier.last_layer())
    return score


def guard_module(backbone: str, score: str, pixels: int, head: str = "linear", **options: Any) -> GuardModule:
    """What is exported: uint8 pixels to decisions."""
    classifier = fresh_classifier(backbone, head, pixels)
    return GuardModule(classifier, fitted_score(score, classifier, pixels, **options), NORMALISATION).eval()


def guard_graph(backbone: str, score: str, pixels: int, head: str = "linear", **options: Any) -> bytes:
    """The graph guard.export writes; `options` are the score's."""
    module = guard_module(backbone, score, pixels, head, **options)
    manifest = Manifest(
        class_names=tuple(str(c) for c in range(CLASSES)),
        preprocess=Preprocess(height=pixels, width=pixels),
        normalisation=NORMALISATION,
        method="plain",
        backbone=backbone,
        head=head,
        score=score,
    )
    return onnx_bytes(module, manifest)


class _Logits(nn.Module):
    """What someone without a guard would export."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(images).logits
        return logits


def bare_graph(backbone: str, pixels: int) -> bytes:
    """Normalised float32 (N, 3, H, W) -> logits, as torch.onnx writes it at the same opset, untouched by us."""
    with redirect_stdout(io.StringIO()), torch.no_grad():
        exported = torch.onnx.export(
            _Logits(fresh_classifier(backbone, "linear", pixels)).eval(),
            (torch.zeros(2, 3, pixels, pixels),),
            dynamo=True,
            optimize=True,
            opset_version=OPSET,
            dynamic_shapes=({0: "batch"},),
            input_names=["images"],
            output_names=["logits"],
            verbose=False,
        )
    if exported is None:
        raise RuntimeError("torch.onnx.export(dynamo=True) returned no program")
    return bytes(exported.model_proto.SerializeToString())


def session_call(graph: bytes, images: np.ndarray, threads: int) -> Callable[[], Any]:
    """A closure that runs the graph on `images` in a session of its own; ONNX Runtime's defaults but for threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: images}
    return lambda: session.run(None, feed)


def inputs(batch: int, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """The same random images as uint8 (N, H, W, 3) and normalised float32 (N, 3, H, W)."""
    images = np.random.default_rng(0).integers(0, 256, (batch, pixels, pixels, 3), dtype=np.uint8)
    scaled = (images / 255 - np.array(NORMALISATION.mean)) / np.array(NORMALISATION.std)
    return images, np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), dtype=np.float32)
