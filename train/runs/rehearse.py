"""Whether a score can be fitted is tried with random features before the training that makes the real ones."""

from __future__ import annotations

import copy

import torch

from guard.data import ImageData
from guard.graph.module import GuardModule

from ..classifiers.input import example_batch
from ..features.choose_layers import watch_layers

_MOST_NUMBERS = 2**22  # of all random features: some seconds of fitting; more images than that have no lack of them


def rehearse(module: GuardModule, data: ImageData) -> None:
    """Fit a copy of the module's score to random features of as many images; the module is left as it is.

    Raises:
        ConfigError, DataError: an option that does not go with the width of the features or the number of images.
    """
    if module.score.trained_by:
        return
    device = module.scale.device
    trial = copy.deepcopy(module.score)
    module = GuardModule(module.classifier, trial, module.normalisation).to(device)
    module.eval()  # in training mode a look would move the running statistics
    examples = example_batch(data.preprocess, device)
    if "layer maps" in trial.needs:
        watch_layers(module, examples)
    with torch.inference_mode():
        shown = module.outputs(examples)
    width, classes = shown.features.shape[1], shown.logits.shape[1]
    shape = (len(data), *shown.features.shape[1:])
    map_shape = None if shown.feature_map is None or not trial.uses_map else (len(data), *shown.feature_map.shape[1:])
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trial.begin(width, classes, module.classifier.last_layer())
        if not trial.needs_fit or max(torch.Size(s).numel() for s in (shape, map_shape or shape)) > _MOST_NUMBERS:
            return
        labels = torch.from_numpy(data.labels).to(device)
        logits = torch.randn(len(data), classes).to(device)
        logits[torch.arange(len(data), device=device), labels] += 10.0  # right, as most are after training
        features = torch.randn(shape).abs().to(device)
        feature_map = None if map_shape is None else torch.randn(map_shape).abs().to(device)
        trial.update(features, logits, labels, feature_map)
        trial.finish()
