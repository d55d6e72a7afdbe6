"""A guard with random weights: time does not depend on them, and what a runtime does otherwise shows as well."""

from __future__ import annotations

import numpy as np
import torch

from guard.calibration.conformal import calibrate
from guard.detector import Guard
from guard.graph.module import GuardModule
from guard.manifest import Manifest, Normalisation, Preprocess
from guard.runtimes.torch_module import TorchModule
from guard.scores import create_score
from train.classifiers.fresh import build_classifier

CLASSES = 10


def random_guard(backbone: str, pixels: int, *, score: str = "energy", bank: int = 0) -> Guard:
    """On the CPU, with a threshold that flags half of `images`; batch norm has the statistics of random images.

    Args:
        bank: rows of a score that keeps features.
    """
    torch.manual_seed(0)
    classifier = build_classifier(backbone, "linear", CLASSES, in_chans=3, image_size=pixels)
    normalisation = Normalisation(mean=(0.5,) * 3, std=(0.25,) * 3)
    module = GuardModule(classifier, create_score(score), normalisation)
    with torch.no_grad():
        for _ in range(3):  # in training mode: an untrained ResNet's branches are 0 otherwise
            module.train().normalise(torch.zeros(1, pixels, pixels, 3, dtype=torch.uint8))
            classifier(module.normalise(torch.from_numpy(images(8, pixels))))
        module.eval()
        for name, parameter in classifier.named_parameters():
            if name.endswith("weight") and parameter.ndim == 1 and not parameter.any():
                parameter.fill_(0.2)  # the last scale of a residual branch
        if bank:
            features = torch.randn(bank, classifier.num_features).abs()
            labels = torch.arange(bank) % CLASSES
            module.score.fit(features, classifier.head(features), labels, classifier.last_layer())
    preprocess = Preprocess(height=pixels, width=pixels)
    runtime = TorchModule(module, preprocess, "cpu")
    scores = runtime.run(images(32, pixels)).ood_score
    manifest = Manifest(
        class_names=tuple(f"class {i}" for i in range(CLASSES)),
        preprocess=preprocess,
        normalisation=normalisation,
        method="plain",
        backbone=backbone,
        head="linear",
        score=score,
        calibration=calibrate(scores, alpha=0.5),
    )
    return Guard(manifest, runtime)


def images(count: int, pixels: int) -> np.ndarray:
    """uint8 (count, pixels, pixels, 3): noise of several contrasts."""
    random = np.random.default_rng(0)
    contrast = random.uniform(0.1, 1, (count, 1, 1, 1))
    return (random.integers(0, 256, (count, pixels, pixels, 3)) * contrast).astype(np.uint8)
