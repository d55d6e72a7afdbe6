"""The end of `guard.train` and `guard.fit`: score, manifest, threshold, numbers on held-out images, run folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from guard.artefact.files import FOLDER_MANIFEST
from guard.artefact.places import writable_folder
from guard.calibration.by_class import expected_flags
from guard.calibration.temperature import Labelled
from guard.data import ImageData
from guard.data.forms.parquet import SUFFIXES as PARQUET_SUFFIXES
from guard.data.forms.tars import TAR_SUFFIXES
from guard.data.held_out import Splits, shared_with_score
from guard.detector import Guard
from guard.errors import CalibrationError, ConfigError
from guard.evaluation import metrics
from guard.graph.module import GuardModule
from guard.manifest import Manifest, Normalisation, versions
from guard.paths import expanded, unusable
from guard.record import Record
from guard.requests import HeldOut
from guard.runtimes.torch_module import TorchModule
from guard.scores.table import cautioned
from guard.verdict import Verdicts

from ..cache.shared_model import SharedOptions
from ..classifiers.rebuild import score_shapes
from ..engine.checkpoint import NAME as CHECKPOINT
from ..features.extract import stream_outputs

log = logging.getLogger("ood_guard")
FITTED = "fit"  # the method of a classifier that `guard.fit` was given


@dataclass(frozen=True)
class Made:
    """What a guard was made from, beside its data and its score; fields of the manifest.

    Attributes:
        before: the manifest of the guard that the network was taken from.
    """

    name: str
    normalisation: Normalisation
    method: str
    backbone: str
    head: str
    seed: int
    before: Manifest | None = None
    method_options: dict[str, Any] = field(default_factory=dict)
    backbone_options: dict[str, Any] = field(default_factory=dict)
    head_options: dict[str, Any] = field(default_factory=dict)


def assembled(
    module: GuardModule,
    splits: Splits,
    made: Made,
    asked: HeldOut,
    *,
    device: torch.device,
    out: Path | None,
    ood_val: Mapping[str, ImageData] | None = None,
) -> Guard:
    """The calibrated guard of a classifier whose score is fitted, also written to `out`.

    Args:
        splits: classes in the order of the logits.
        asked: alpha, class_conditional and temperature_scaling.
        ood_val: OOD sets to report AUROC on.
    """
    if (caution := cautioned(module.score, module.classifier)) != module.score.caution:
        log.warning("score %r: %s", module.score.name, caution)
    splits = settled(module, splits, asked.alpha)
    manifest = _manifest(module, splits, made)
    runtime = TorchModule(module, manifest.preprocess, str(device))
    g = Guard(manifest, runtime, splits=splits.rows, calibration_images=splits.calibration)
    held_out = g.predict_batches(images for images, _ in splits.calibration.batches(256))
    if made.method != FITTED:
        _warn_near_chance(held_out.label, splits.calibration)
    g = g.with_calibration(
        held_out.ood_score, alpha=asked.alpha, predicted=held_out.label if asked.class_conditional else None
    )
    tested = None if splits.test is None else g.predict_batches(images for images, _ in splits.test.batches(256))
    numbers = _measured(g, tested, splits.test, ood_val or {}, asked.alpha)
    if asked.temperature_scaling:
        g = _tempered(g, held_out, tested, splits)
    g = g._with(g.manifest.model_copy(update={"metrics": numbers}))
    if out is not None:
        g.save_pretrained(out)
    return g


def settled(module: GuardModule, splits: Splits, alpha: float) -> Splits:
    """Give half of the calibration images to a score that `takes_held_out`; the splits with the other half.

    The threshold and its guarantee need images on which no part of the score depends. Where half of them could not
    reach `alpha`, all stay for the threshold, and the score keeps what it took from its fitting images.
    """
    if not module.score.takes_held_out:
        return splits
    count = len(splits.calibration)
    given, kept = shared_with_score(count, alpha)
    if not len(given):
        log.warning("%d calibration images are too few to share with score %r", count, module.score.name)
        return splits
    outputs = list(stream_outputs(module, splits.calibration.subset(given)))
    maps = [t.feature_map for t in outputs if t.feature_map is not None and module.score.uses_map]
    features, logits = torch.cat([t.features for t in outputs]), torch.cat([t.logits for t in outputs])
    module.score.settle(features, logits, torch.cat(maps) if maps else None)
    return replace(splits, calibration=splits.calibration.subset(kept), settled=len(given))


def near_chance(accuracy: float, classes: int) -> bool:
    """Whether an accuracy in [0, 1] is about what guessing among so many classes has."""
    return accuracy < min(1.5 / classes, 0.5)


def _warn_near_chance(labels: np.ndarray, held_out: ImageData) -> None:
    """Of a training that taught nothing; its guard is made all the same. Images without labels tell nothing of it."""
    if held_out.labels is None:
        return
    accuracy = float((labels == held_out.labels).mean())
    if near_chance(accuracy, len(held_out.class_names)):
        log.warning(
            "the trained classifier is right on %.1f %% of %d held-out images, near chance, and a guard of it tells "
            "little: train for more epochs, with another lr= or a smaller weight of the outliers",
            100 * accuracy,
            len(held_out),
        )


def _manifest(module: GuardModule, splits: Splits, made: Made) -> Manifest:
    return Manifest(
        name=made.name,
        class_names=splits.train.class_names,
        preprocess=splits.train.preprocess,
        normalisation=made.normalisation,
        method=made.method,
        method_options=made.method_options,
        backbone=made.backbone,
        backbone_options=made.backbone_options,
        head=made.head,
        head_options=made.head_options,
        score=module.score.name,
        score_options=module.score.options.model_dump(),
        score_shapes=score_shapes(module.score),
        seed=made.seed,
        data=splits.cards(made.before),
        versions=versions(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _measured(
    g: Guard, tested: Verdicts | None, test: ImageData | None, ood_val: Mapping[str, ImageData], alpha: float
) -> dict[str, float]:
    """Accuracy and false-alarm rate on the test split, and AUROC of its scores against each OOD set; logged."""
    calibration, numbers = g.manifest.calibration, {}
    if test is None or tested is None or calibration is None:
        return {}
    numbers["test_images"] = float(len(test))
    numbers["test_accuracy"] = float((tested.label == test.labels).mean())
    numbers["test_false_alarm_rate"] = float(tested.is_ood.mean())
    n, interval = len(test), expected_flags(tested.label, calibration)
    log.info(
        "test: accuracy %.2f %%, false alarms %.1f %% (target %.1f %%%s) of %d images",
        100 * numbers["test_accuracy"],
        100 * numbers["test_false_alarm_rate"],
        100 * alpha,
        "" if interval is None else f", expected {100 * interval[0] / n:.1f}-{100 * interval[1] / n:.1f} %",
        n,
    )
    for name, images in ood_val.items():
        scores = g.predict_batches(batch for batch, _ in images.batches(256)).ood_score
        numbers[f"{name}_auroc"] = metrics.auroc(tested.ood_score, scores)
        log.info("%s: AUROC %.4f on %d images", name, numbers[f"{name}_auroc"], len(images))
    return numbers


def _tempered(g: Guard, held_out: Verdicts, tested: Verdicts | None, splits: Splits) -> Guard:
    """With a temperature fitted on the calibration split and measured on the test split; a guard is not lost because
    none can be fitted."""
    labels, test_labels = splits.calibration.labels, splits.test.labels if splits.test is not None else None
    assert labels is not None  # the splits were drawn with labelled_calibration
    measured = None if tested is None or test_labels is None else Labelled(tested.probabilities, test_labels)
    try:
        g = g.with_temperature(Labelled(held_out.probabilities, labels), measured)
    except CalibrationError as error:
        log.warning("the probabilities stay as they are: %s", error)
        return g
    if scaling := g.manifest.temperature:
        log.info(
            "temperature %.3f from %d images: ECE %.2f %% -> %.2f %% on %d %s images",
            scaling.value,
            scaling.n,
            100 * scaling.ece_before,
            100 * scaling.ece_after,
            scaling.measured_images,
            scaling.measured_on,
        )
    return g


def run_folder(out: str | Path | None, data: Any = None, *, resume: bool = False) -> Path | None:
    """The folder a run is written to, made if missing; None where nothing is to be kept.

    Raises:
        ConfigError: it holds another run, cannot be written to, or is the folder of the images.
    """
    if out is None:
        if resume:
            raise ConfigError("resume=True needs the run's folder: out='runs/...'")
        return None
    path = own_folder(out, data, "runs/a")
    held = [name for name in (CHECKPOINT, FOLDER_MANIFEST) if (path / name).exists()]
    if held and not resume:
        raise ConfigError(
            f"{path} already holds a run ({', '.join(held)}); continue it with resume=True (--resume), "
            "or choose another out folder"
        )
    return path


def own_folder(out: str | Path, data: Any, example: str) -> Path:
    """A folder to write to.

    Raises:
        ConfigError: it cannot be written to, or is the folder of the images; `example` is what to give instead.
    """
    check_apart(out, data, "out", example)
    return writable_folder(out)


def check_apart(folder: str | Path, data: Any, what: str, example: str) -> None:
    """Raises: ConfigError: the folder to write to is that of the images, or would be one of its classes."""
    images = expanded(data) if isinstance(data, (str, Path)) and not unusable(data) else None
    if images is None or not images.is_dir():
        return
    given = f"{what}={os.fspath(folder)!r}"
    if expanded(folder).resolve() == images.resolve():
        raise ConfigError(f"{given} is the folder of the images; choose another, e.g. {what}={example!r}")
    if _would_be_a_class(expanded(folder), images):
        raise ConfigError(
            f"{given} lies in the folder of the images, where it would be taken for a class; choose another, outside "
            "of it"
        )


def check_models_apart(options: Record, data: Any) -> None:
    """`check_apart` for the folders that a method or synthesiser keeps its models in."""
    for name, value in options:
        if isinstance(value, SharedOptions) and value.named_folder is not None:
            check_apart(value.named_folder, data, f"{name}.folder", f"models/{name}")


def _would_be_a_class(out: Path, images: Path) -> bool:
    """Whether a folder of classes would have one more: tables and hidden folders have none."""
    try:
        first = out.resolve().relative_to(images.resolve()).parts[0]
    except ValueError:
        return False
    tables = (*PARQUET_SUFFIXES, *TAR_SUFFIXES)
    return not first.startswith(".") and not any(file.suffix.lower() in tables for file in images.iterdir())
