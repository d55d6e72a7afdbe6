"""`guard.fit`: a guard for a classifier that the user already has."""

from __future__ import annotations

import copy
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from guard.artefact.files import FOLDER_MANIFEST
from guard.data import ImageData, load
from guard.data.classes import class_order
from guard.data.held_out import Splits, is_amount, make_splits, settled
from guard.detector import Guard
from guard.graph.module import GuardModule
from guard.graph.onnx_classifier import OnnxClassifier
from guard.graph.outputs import FeatureClassifier, HookedClassifier
from guard.manifest import Manifest, Preprocess, versions
from guard.requests import FitRequest
from guard.runtimes.torch_module import resolve_device
from guard.scores import Score, create_score
from guard.scores.combined import Combined
from guard.scores.table import check_applies

from ..classifiers import GivenClassifier, open_classifier
from ..classifiers.input import example_batch
from ..classifiers.rebuild import score_shapes
from ..features.extract import fit_score, hook_features
from .assemble import calibrated, run_folder, written

log = logging.getLogger("ood_guard")


def fit(request: FitRequest) -> Guard:
    """See `guard.fit`."""
    a, model, data = dict(request), request.model, request.data
    score = create_score(request.score, **request.score_options)
    if not is_guard(model):  # a guard may bring what only training gives
        check_applies(score)
    device = resolve_device(a["device"])
    out = run_folder(a["out"], False, data)
    base = open_classifier(model, a, data)
    score = carried_over(score, base.score)
    check_applies(score)
    source = base.data or load(data, preprocess=base.preprocess, workers=a["workers"])
    splits = _fit_splits(base, source, a)
    classifier: FeatureClassifier
    if isinstance(base.model, FeatureClassifier):
        classifier = base.model
    else:
        probe = GuardModule(_Plain(), score, base.normalisation)  # type: ignore[arg-type]  # only normalises
        example = probe.normalise(torch.from_numpy(np.ascontiguousarray(source.take(np.arange(min(2, len(source)))))))
        classifier = hook_features(base.model, example.to(device), a["features"] or base.layer)
    check_applies(score, classifier)
    module = GuardModule(classifier, score, base.normalisation).to(device).eval()
    answers = _answers(module, base.preprocess, device)
    order = class_order(answers, source.class_names, base.class_names, a["class_names"])
    splits, names = order.reordered(splits), order.names
    accuracy = fit_score(module, splits.train, batch_size=a["batch_size"])
    splits = settled(module, splits, a["alpha"])
    if accuracy < min(1.5 / len(names), 0.5):
        log.warning(
            "the classifier is right on %.1f %% of its own data, near chance: check mean, std, image_size and the "
            "order of the classes (%s ...)",
            100 * accuracy,
            ", ".join(names[:3]),
        )
    manifest = Manifest(
        name=a["name"] or (out.resolve().name if out else f"{base.backbone}-{score.name}"),
        class_names=names,
        preprocess=base.preprocess,
        normalisation=base.normalisation,
        method="fit",
        backbone=base.backbone,
        backbone_options=_backbone_options(classifier, base),
        head=base.head,
        head_options=base.trained.head_options if base.trained else {},
        score=score.name,
        score_options=score.options.model_dump(),
        score_shapes=score_shapes(module.score),
        seed=base.trained.seed if base.trained else a["seed"],
        data=(source.card({k: len(v) for k, v in splits.rows.items()}),),
        versions=versions(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return written(calibrated(manifest, module, splits, a, device, {}), out)


def _fit_splits(base: GivenClassifier, source: ImageData, a: dict[str, Any]) -> Splits:
    """As `make_splits`; but where the network was trained by ood-guard on this very data, its own splits: another seed
    would calibrate on images it was trained on."""
    for card in base.trained.data if base.trained else ():
        if card.fingerprint == source.fingerprint and base.trained and any(card.splits.values()):
            counts = {name: card.splits[name] for name in ("calibration", "test")}
            for name in counts:
                if a[name] is not None and is_amount(a[name]) and a[name] != counts[name]:
                    log.warning("%s=%s is ignored: the split this network was trained with is kept", name, a[name])
            given = {name: a[name] if not is_amount(a[name]) else counts[name] for name in counts}
            a = {**a, **given, "seed": base.trained.seed}
            break
    return make_splits(source, a["calibration"], a["test"], a["seed"], a["alpha"], a["temperature_scaling"])


def is_guard(model: Any) -> bool:
    """Whether this is a guard, or the folder of one."""
    folder = model if isinstance(model, (str, Path)) else None
    return isinstance(model, Guard) or (folder is not None and (Path(folder) / FOLDER_MANIFEST).is_file())


def carried_over(score: Score, donor: Score | None) -> Score:
    """`score` with the parts that only training gives taken from the score of the guard that is fitted again."""
    learned = {part.name: part for part in (donor.parts() if donor is not None else ()) if part.trained_by}
    wanted = [part.name for part in score.parts() if part.trained_by]
    if not wanted or not set(wanted) <= set(learned):
        return score
    if not isinstance(score, Combined):
        mine = copy.deepcopy(learned[score.name])
    else:
        options = {name: learned[name].options.model_dump() for name in wanted}
        mine = Combined(**{**score.options.model_dump(), "part_options": {**score.options.part_options, **options}})
        for i, part in enumerate(mine.parts()):
            if part.name in options:
                mine.scores[i] = copy.deepcopy(learned[part.name])
    mine.trained_by = ""  # type: ignore[misc]  # it has been
    return mine


class _Plain(nn.Module):
    """Stands in for a classifier where only the normalisation of a `GuardModule` is used."""


def _backbone_options(classifier: FeatureClassifier, base: GivenClassifier) -> dict[str, Any]:
    """What `guard_from_folder` needs to have this classifier again."""
    if isinstance(classifier, OnnxClassifier):
        return classifier.options()
    if not isinstance(classifier, HookedClassifier):
        return base.rebuild
    features = {"layer": classifier.layer, "tap": classifier.side, "num_features": classifier.num_features}
    return {"architecture": type(base.model).__name__, **base.rebuild, **features}


def _answers(module: GuardModule, preprocess: Preprocess, device: torch.device) -> int:
    """How many logits the classifier gives."""
    with torch.inference_mode():
        return module.classifier(module.normalise(example_batch(preprocess, device))).logits.shape[1]
