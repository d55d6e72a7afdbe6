"""The end of `guard.train` and `guard.fit`: threshold, numbers on held-out images, run folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from guard.artefact.files import FOLDER_MANIFEST
from guard.calibration.by_class import expected_flags
from guard.calibration.temperature import Labelled
from guard.data import ImageData
from guard.data.held_out import Splits
from guard.detector import Guard
from guard.errors import CalibrationError, ConfigError
from guard.evaluation import metrics
from guard.graph.module import GuardModule
from guard.manifest import Manifest
from guard.runtimes.torch_module import TorchModule
from guard.verdict import Verdicts

from ..engine.checkpoint import NAME as CHECKPOINT

log = logging.getLogger("ood_guard")


def calibrated(
    manifest: Manifest,
    module: GuardModule,
    splits: Splits,
    a: Mapping[str, Any],
    device: torch.device,
    ood_val: Mapping[str, ImageData],
) -> Guard:
    """Threshold and, where wanted, temperature from the calibration split; accuracy and false-alarm rate on the test
    split.

    Args:
        a: the arguments of `guard.train` or `guard.fit`; of them alpha, class_conditional and temperature_scaling.
    """
    runtime = TorchModule(module, manifest.preprocess, str(device))
    g = Guard(manifest, runtime, splits=splits.rows, calibration_images=splits.calibration)
    held_out = g.predict_batches(images for images, _ in splits.calibration.batches(256))
    g = g.with_calibration(
        held_out.ood_score, alpha=a["alpha"], predicted=held_out.label if a["class_conditional"] else None
    )
    numbers: dict[str, float] = {}
    calibration = g.manifest.calibration
    verdicts = None
    if splits.test is not None and calibration is not None:
        verdicts = g.predict_batches(images for images, _ in splits.test.batches(256))
        numbers["test_images"] = float(len(splits.test))
        numbers["test_accuracy"] = float((verdicts.label == splits.test.labels).mean())
        numbers["test_false_alarm_rate"] = float(verdicts.is_ood.mean())
        n, interval = len(splits.test), expected_flags(verdicts.label, calibration)
        log.info(
            "test: accuracy %.2f %%, false alarms %.1f %% (target %.1f %%%s) of %d images",
            100 * numbers["test_accuracy"],
            100 * numbers["test_false_alarm_rate"],
            100 * a["alpha"],
            "" if interval is None else f", expected {100 * interval[0] / n:.1f}-{100 * interval[1] / n:.1f} %",
            n,
        )
        for name, other in ood_val.items():
            scores = g.predict_batches(batch for batch, _ in other.batches(256)).ood_score
            numbers[f"{name}_auroc"] = metrics.auroc(verdicts.ood_score, scores)
            log.info("%s: AUROC %.4f on %d images", name, numbers[f"{name}_auroc"], len(other))
    if a["temperature_scaling"]:
        g = _tempered(g, held_out, verdicts, splits)
    return g._with(g.manifest.model_copy(update={"metrics": numbers}))


def _tempered(g: Guard, held_out: Verdicts, test: Verdicts | None, splits: Splits) -> Guard:
    """With a temperature fitted on the calibration split and measured on the test split; a guard is not lost because
    none can be fitted."""
    labels, test_labels = splits.calibration.labels, splits.test.labels if splits.test is not None else None
    assert labels is not None  # make_splits was told that they are needed
    measured = None if test is None or test_labels is None else Labelled(test.probabilities, test_labels)
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


def run_folder(out: str | Path | None, resume: bool, data: Any = None) -> Path | None:
    """The folder a run is written to, made if missing; None where nothing is to be kept.

    Raises:
        ConfigError: it holds another run, is a file, or is the folder of the images.
    """
    if out is None:
        if resume:
            raise ConfigError("resume=True needs the run's folder: out='runs/...'")
        return None
    path = Path(out)
    if path.exists() and not path.is_dir():
        raise ConfigError(f"out={str(path)!r} is a file; give a folder")
    if isinstance(data, (str, Path)) and Path(data).is_dir() and Path(data).resolve() == path.resolve():
        raise ConfigError(f"out={str(path)!r} is the folder of the images; choose another, e.g. out='runs/a'")
    held = [name for name in (CHECKPOINT, FOLDER_MANIFEST) if (path / name).exists()]
    if held and not resume:
        raise ConfigError(
            f"{path} already holds a run ({', '.join(held)}); continue it with resume=True (--resume), "
            "or choose another out folder"
        )
    path.mkdir(parents=True, exist_ok=True)
    return path


def written(g: Guard, out: Path | None) -> Guard:
    if out is not None:
        g.save_pretrained(out)
    return g
