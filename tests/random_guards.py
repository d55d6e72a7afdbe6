"""Small random guards, one for every score and head that there is, and their graphs."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch

from export.to_onnx import onnx_bytes
from guard.calibration.conformal import calibrate
from guard.detector import Guard
from guard.graph.module import GuardModule
from guard.heads import list_heads
from guard.manifest import Manifest, Normalisation, Preprocess
from guard.runtimes.torch_module import TorchModule
from guard.scores import create_score, get_score, list_scores
from tests.once import once
from train.classifiers.fresh import build_classifier
from train.classifiers.rebuild import score_shapes
from train.features.choose_layers import watch_layers

SCORES = [name for name in list_scores() if not get_score(name).no_export]

#: (score, head): every score with two heads, every head with a score
EVERY = [(s, h) for h in ("linear", "cosine") for s in SCORES if "extra class" not in get_score(s).needs]
EVERY += [("energy", h) for h in list_heads() if h not in ("linear", "cosine")] + [("reject_class", "c_plus_1")]


@functools.cache
def exported(score: str, head: str) -> tuple[Guard, bytes]:
    """A guard and its serialised graph."""
    g = make_guard(score, head)
    return g, once(f"{score}_{head}.onnx", lambda: onnx_bytes(g.module, g.manifest))


def make_guard(score_name: str, head: str, score_options: dict[str, Any] | None = None) -> Guard:
    """A small random guard with fitted state."""
    torch.manual_seed(0)
    classifier = build_classifier("wrn10_2", head, 4, in_chans=3, image_size=16).eval()
    features = torch.randn(200, classifier.num_features).abs()
    labels = torch.arange(200) % 4
    score = create_score(score_name, **(score_options or {}))
    normalisation = Normalisation(mean=(0.5,) * 3, std=(0.25,) * 3)
    module = GuardModule(classifier, score, normalisation)
    if "layer maps" in score.needs:
        images = torch.randint(0, 256, (200, 16, 16, 3), dtype=torch.uint8)
        watch_layers(module, images)
        with torch.no_grad():
            outputs = module.outputs(images)
            score.fit(outputs.features, outputs.logits, labels, classifier.last_layer(), outputs.feature_map)
    elif score_name == "rejection":
        score.build(classifier.num_features)
    elif score_name == "energy_logistic":
        score.set_link(torch.rand(4), torch.tensor(1.5), torch.tensor(0.1))
    elif score_name == "rotation":
        score.set_layer(torch.randn(4, classifier.num_features), torch.zeros(4))
    else:
        with torch.no_grad():
            score.fit(features, classifier.head(features), labels, classifier.last_layer())
    preprocess = Preprocess(height=16, width=16)
    manifest = Manifest(
        class_names=tuple("abcd"),
        preprocess=preprocess,
        normalisation=normalisation,
        method="plain",
        score_options=score_options or {},
        backbone="wrn10_2",
        head=head,
        score=score_name,
        score_shapes=score_shapes(score),
        calibration=calibrate(np.linspace(-1, 1, 100), alpha=0.05),
    )
    return Guard(manifest, TorchModule(module, preprocess, "cpu"))
