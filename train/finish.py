"""The end of `guard.train` and `guard.fit`: threshold, numbers on held-out images, run folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from guard import metrics
from guard.artefact import FOLDER_MANIFEST
from guard.calibration import flag_count_interval
from guard.detector import Guard
from guard.errors import ConfigError
from guard.manifest import Manifest
from guard.module import GuardModule
from guard.runtimes.torch_module import TorchModule

from .checkpoint import NAME as CHECKPOINT
from .data import ImageData
from .holdout import Splits

log = logging.getLogger("ood_guard")


def calibrated(
    manifest: Manifest,
    module: GuardModule,
    splits: Splits,
    alpha: float,
    device: torch.device,
    ood_val: Mapping[str, ImageData],
) -> Guard:
    """Threshold from the calibration split; accuracy and false-alarm rate on the test split."""
    runtime = TorchModule(module, manifest.preprocess, str(device))
    g = Guard(manifest, runtime, splits=splits.rows, calibration_images=splits.calibration)
    scores = g.predict_batches(images for images, _ in splits.calibration.batches(256)).ood_score
    g = g.with_calibration(scores, alpha=alpha)
    numbers: dict[str, float] = {}
    calibration = g.manifest.calibration
    if splits.test is not None and calibration is not None:
        verdicts = g.predict_batches(images for images, _ in splits.test.batches(256))
        numbers["test_images"] = float(len(splits.test))
        numbers["test_accuracy"] = float((verdicts.label == splits.test.labels).mean())
        numbers["test_false_alarm_rate"] = float(verdicts.is_ood.mean())
        low, high = flag_count_interval(len(splits.test), calibration)
        log.info(
            "test: accuracy %.2f %%, false alarms %.1f %% (target %.1f %%, expected %.1f-%.1f %%) of %d images",
            100 * numbers["test_accuracy"],
            100 * numbers["test_false_alarm_rate"],
            100 * alpha,
            100 * low / len(splits.test),
            100 * high / len(splits.test),
            len(splits.test),
        )
        for name, other in ood_val.items():
            scores = g.predict_batches(batch for batch, _ in other.batches(256)).ood_score
            numbers[f"{name}_auroc"] = metrics.auroc(verdicts.ood_score, scores)
            log.info("%s: AUROC %.4f on %d images", name, numbers[f"{name}_auroc"], len(other))
    return g._with(g.manifest.model_copy(update={"metrics": numbers}))


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


def versions() -> dict[str, str]:
    """Installed versions of what decides the numbers."""
    found = {}
    for name in ("ood-guard", "torch", "timm", "numpy", "onnx", "onnxruntime", "pillow"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
