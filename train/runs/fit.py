"""`guard.fit`: a guard for a classifier that the user already has."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from guard.artefact.files import FOLDER_MANIFEST
from guard.calibration.conformal import reachable_rank
from guard.data import ImageData, load
from guard.data.class_names import names_in_order
from guard.data.held_out import Draw, Splits, is_amount
from guard.data.labels import printable
from guard.data.splits import default_count, part_size
from guard.detector import Guard
from guard.errors import CalibrationError
from guard.graph.answers import NORMALISED
from guard.graph.module import GuardModule
from guard.graph.onnx_classifier import OnnxClassifier
from guard.graph.outputs import FeatureClassifier, HookedClassifier, Outputs
from guard.requests import FitRequest
from guard.runtimes.torch_module import resolve_device
from guard.scores import Score, create_score
from guard.scores.combined import Combined
from guard.scores.table import check_applies

from ..classifiers import GivenClassifier, open_classifier
from ..classifiers.checks.geometry import check_geometry
from ..classifiers.checks.logits import check_logits, check_reads_probabilities_alone
from ..classifiers.checks.order import order_of_labels
from ..classifiers.checks.sample import LOOKED_AT, sample
from ..classifiers.checks.steady import check_steady
from ..classifiers.imagenet import class_order_by_synset
from ..classifiers.input import example_batch, normalised
from ..engine.distributed import first_speaks, processes
from ..engine.threads import paced
from ..features.extract import fit_score, hook_features
from .assemble import FITTED, Made, assembled, near_chance, run_folder
from .default_score import of_given, that_applies
from .fit_rejection import asked_training, learned
from .rehearse import rehearse

log = logging.getLogger("ood_guard")


def fit(request: FitRequest) -> Guard:
    """See `guard.fit`."""
    us = processes()  # before the device is used: a launcher gives each process its own
    device = resolve_device(request.device)
    with us.main_process_first(), paced(request.threads, device), first_speaks():
        if request.out is not None and not us.is_first:  # fitting is not divided: the others read what one has written
            return Guard.from_pretrained(request.out, device=str(device))
        return _fitted(request, device)


def _fitted(request: FitRequest, device: torch.device) -> Guard:
    names = None if request.class_names is None else names_in_order(request.class_names)
    asked = of_given(request)
    score = create_score(str(asked.name), **asked.options)
    training = asked_training(request, score)
    learns = training is not None
    if not is_guard(request.model):  # a guard may bring what only training gives
        check_applies(score, outliers=learns)
    out = run_folder(request.out, request.data)
    given = open_classifier(request)
    score = score if learns else carried_over(score, given.score)
    check_applies(score, outliers=learns)
    every = names is None and not given.class_names  # where names are known, a class may lack images
    source = given.data or load(request.data, preprocess=given.preprocess, workers=request.workers, all_classes=every)
    splits = _splits(given, source, request, score)
    classifier = _with_features(given, source, request, device)
    score = that_applies(asked, score, classifier)
    check_applies(score, classifier, outliers=learns)
    module = GuardModule(classifier, score, given.normalisation).to(device).eval()
    answers = _answers(module, given, device)
    order = class_order_by_synset(answers, source.class_names, given.class_names, names, source.labels)
    check_logits(module, splits.calibration, given.outputs or request.outputs)
    check_steady(module, splits.calibration)
    order = order_of_labels(module, splits.train, order, batch_size=request.batch_size)
    splits = splits.in_order(order)
    rehearse(module, splits.train)
    taught = {} if training is None else {"training": learned(module, splits.train, training, request, out)}
    accuracy = fit_score(module, splits.train, batch_size=request.batch_size)
    check_reads_probabilities_alone(module, splits.calibration, given.outputs or request.outputs)
    _warn_near_chance(accuracy, order.names)
    check_geometry(module, splits.train, given)
    made = Made(
        name=printable(request.name or (out.resolve().name if out else f"{given.backbone}-{score.name}")),
        normalisation=given.normalisation,
        method=FITTED,
        method_options=taught,
        backbone=given.backbone,
        backbone_options=_backbone_options(classifier, given),
        head=given.head,
        head_options=given.trained.head_options if given.trained else {},
        seed=given.trained.seed if given.trained else request.seed,
        before=given.trained,
    )
    return assembled(module, splits, made, request, device=device, out=out)


def _splits(given: GivenClassifier, source: ImageData, request: FitRequest, score: Score) -> Splits:
    """As `guard.train` draws them; but where the guard that the network is from was made of this very data, its own
    splits: another seed would calibrate on images it was trained on."""
    draw = Draw(request.seed, request.calibration, request.test)
    if not any(part.needs_fit for part in (score, *score.parts())):
        draw = replace(draw, calibration=_enough(request, len(source)), spread_thin=True)
    earlier = Draw.of_guard(given.trained, source)
    draw = draw if earlier is None else draw.kept(earlier)
    return Splits.draw(source, draw, alpha=request.alpha, labelled_calibration=request.temperature_scaling)


def _enough(request: FitRequest, images: int) -> Any:
    """How many images calibrate where none are needed to fit: as always, or all but the test split's where so few
    could not hold `alpha`."""
    if request.calibration is not None:
        return request.calibration
    try:
        reachable_rank(default_count(images), request.alpha)
    except CalibrationError:
        tested = part_size(request.test, images, "test") if is_amount(request.test) else 0
        return max(0, images - 1 - tested)
    return None


def _with_features(
    given: GivenClassifier, source: ImageData, request: FitRequest, device: torch.device
) -> FeatureClassifier:
    """The classifier with its features in view; a few images show where they are."""
    if isinstance(given.model, FeatureClassifier):
        return given.model
    example = normalised(sample(source, LOOKED_AT), given.normalisation).to(device)
    return hook_features(given.model, example, request.features or given.layer, given.outputs or request.outputs)


def _warn_near_chance(accuracy: float, names: tuple[str, ...]) -> None:
    if near_chance(accuracy, len(names)):
        log.warning(
            "the classifier is right on %.1f %% of its own data, near chance: check mean, std, image_size and the "
            "order of the classes (%s ...)",
            100 * accuracy,
            ", ".join(names[:3]),
        )


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
        mine = score.taught(learned[score.name])
    else:
        taught = {part.name: part.taught(learned[part.name]) for part in score.parts() if part.name in wanted}
        options = {name: part.options.model_dump() for name, part in taught.items()}
        mine = Combined(**{**score.options.model_dump(), "part_options": {**score.options.part_options, **options}})
        for i, part in enumerate(mine.parts()):
            if part.name in taught:
                mine.scores[i] = taught[part.name]
    mine.trained_by = ""  # type: ignore[misc]  # it has been
    return mine


def _backbone_options(classifier: FeatureClassifier, given: GivenClassifier) -> dict[str, Any]:
    """What `classifiers.rebuild` needs to have this classifier again."""
    if isinstance(classifier, OnnxClassifier):
        return {**classifier.options(), **({"outputs": given.outputs} if given.outputs in NORMALISED else {})}
    if not isinstance(classifier, HookedClassifier):
        return given.rebuild
    features = {"layer": classifier.layer, "tap": classifier.side, "num_features": classifier.num_features}
    read = classifier.reading.options()
    return {"architecture": type(given.model).__name__, **given.rebuild, **features, **read}


def _answers(module: GuardModule, given: GivenClassifier, device: torch.device) -> int:
    """How many logits the classifier gives."""
    with torch.inference_mode():
        outputs: Outputs = module.classifier(module.normalise(example_batch(given.preprocess, device)))
        return outputs.logits.shape[1]
