"""ODIN and Gram, which read more than features and logits, from the pixels on: ours and pytorch-ood's.

Each function takes a guard with any classifier and the images uint8 (n, H, W, channels) of several sets, and gives
(our ood_scores, theirs, what was done to theirs), scores by set.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from guard.detector import Guard
from guard.graph.layer_maps import watching
from guard.graph.module import GuardModule
from guard.scores import create_score
from train.benchmark.counterparts import detector_of as theirs
from train.features.choose_layers import watch_layers

Scores = dict[str, np.ndarray]
BATCH = 100


def _with_score(g: Guard, name: str, **options: object) -> GuardModule:
    """The guard's classifier under another score, not fitted yet."""
    return GuardModule(g.module.classifier, create_score(name, **options), g.manifest.normalisation).eval()


def _batches(images: np.ndarray) -> Iterator[Tensor]:
    yield from torch.from_numpy(np.ascontiguousarray(images)).split(BATCH)


def _ours(module: GuardModule, sets: dict[str, np.ndarray]) -> Scores:
    threshold = torch.tensor(0.0)
    return {
        name: torch.cat([module(part, threshold)[2].detach() for part in _batches(images)]).double().numpy()
        for name, images in sets.items()
    }


def odin(g: Guard, fitting: np.ndarray, sets: dict[str, np.ndarray]) -> tuple[Scores, Scores, str]:
    """Defaults of both; nothing is fitted. Theirs steps in normalised images, told the channels' std."""
    module = _with_score(g, "odin")
    detector = theirs("ODIN")(lambda x: module.classifier(x).logits, norm_std=list(g.manifest.normalisation.std))
    other = {
        name: torch.cat([detector.predict(module.normalise(part)) for part in _batches(images)]).double().numpy()
        for name, images in sets.items()
    }
    return _ours(module, sets), other, ""


@torch.no_grad()
def gram(g: Guard, fitting: np.ndarray, sets: dict[str, np.ndarray]) -> tuple[Scores, Scores, str]:
    """Theirs groups by the label it is given: here the prediction, as ours does. The tenth that is held out is drawn
    differently, so nobody is held out."""
    module = _with_score(g, "gram", held_out=1e-9)
    score, classifier = module.score, module.classifier
    watch_layers(module, next(_batches(fitting)))
    score.begin(classifier.num_features, len(g.class_names), None)
    predicted = []
    for part in _batches(fitting):
        outputs = module.outputs(part)
        predicted.append(outputs.logits.argmax(-1))
        score.update(outputs.features, outputs.logits, predicted[-1], outputs.feature_map)
    score.finish()

    def maps(x: Tensor) -> tuple[Tensor, list[Tensor]]:
        seen: dict[str, Tensor] = {}
        with watching(classifier.layer_root(), score.layers, lambda name, output: seen.update({name: output.clone()})):
            logits = classifier(x).logits
        return logits, [seen[name] for name in score.layers]

    detector = theirs("Gram")(lambda x: x, list(score.layers), len(g.class_names), list(score.options.powers)).to("cpu")
    detector._create_feature_list = maps  # theirs would call the layers one after another
    detector.validation_fraction = 0
    normalised = torch.cat([module.normalise(part) for part in _batches(fitting)])
    detector.fit(DataLoader(TensorDataset(normalised, torch.cat(predicted)), batch_size=BATCH))
    other = {}
    for name, images in sets.items():
        rows = []
        for part in _batches(images):
            x = module.normalise(part)
            rows.append(detector.predict(x) / classifier(x).logits.softmax(-1).amax(-1))
        other[name] = torch.cat(rows).double().numpy()
    return _ours(module, sets), other, "divided by max p; given predictions for labels, nobody held out"
