"""What `guard.train` and `guard.fit` call: data, network, stages, score, threshold, numbers, run folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from guard import metrics
from guard.artefact import FOLDER_MANIFEST
from guard.calibration import flag_count_interval
from guard.detector import Guard
from guard.errors import CalibrationError, ConfigError, ModelError
from guard.manifest import Manifest, Normalisation, Preprocess
from guard.module import Classifier, GuardModule, TappedClassifier
from guard.options import parse_options
from guard.runtimes.torch_module import TorchModule, resolve_device
from guard.scores import Score, create_score

from . import build
from .backbones import pretrained_normalisation
from .checkpoint import NAME as CHECKPOINT
from .config import TrainConfig
from .data import ImageData, load, split
from .feed import Feed
from .features import fit_score, tap_classifier
from .loop import train_stages
from .method import Context, Method
from .registry import get_method
from .synthesis.images import SYNTHESISERS

log = logging.getLogger("ood_guard")

SMALL_DATA = 5000  # images; below, smaller batches give an epoch enough steps
SMALL_IMAGE = 64  # pixels; up to here "auto" takes a small-image net


@dataclass(frozen=True)
class Splits:
    """The three disjoint parts of the user's data; `rows` are indices into it (empty for parts given apart)."""

    train: ImageData
    calibration: ImageData
    test: ImageData | None
    rows: dict[str, np.ndarray]


def train(data: Any, **arguments: Any) -> Guard:
    """See `guard.train`, whose arguments arrive by name, the method's options as ``options``."""
    a = arguments
    method_class = get_method(a["method"])
    method: Method = method_class(parse_options(method_class.Options, a["options"], f"method {method_class.name!r}"))
    score = _trained_score(method, a["score"])
    device = resolve_device(a["device"])
    out = _run_folder(a["out"], a["resume"])
    _check_channels(a["in_chans"])
    source = load(data, image_size=a["image_size"], channels=a["in_chans"], workers=a["workers"])
    splits = make_splits(source, a["calibration"], a["test"], a["seed"], a["alpha"])
    outliers = _outliers(method, a["outliers"], source.preprocess, a["workers"])
    config = _config(a, method, score, source, splits, outliers)
    module, normalisation = _fresh_module(config, splits.train, score, device)
    stages = method.stages(_context(config, module, splits.train, outliers, device))
    train_stages(module, Feed(splits.train), stages, config, device=device, out=out, resume=a["resume"])
    _finish_score(module, splits.train)
    manifest = Manifest(
        name=out.resolve().name if out else f"{method.name}-{config.backbone}",
        class_names=source.class_names,
        preprocess=source.preprocess,
        normalisation=normalisation,
        method=method.name,
        method_options=method.options.model_dump(),
        backbone=config.backbone,
        head=config.head,
        score=score.name,
        score_options=score.options.model_dump(),
        score_shapes=build.score_shapes(module.score),
        seed=config.seed,
        data=(source.card({k: len(v) for k, v in splits.rows.items()}),),
        versions=versions(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    g = _calibrated(manifest, module, splits, a["alpha"], device, a["ood_val"], a["workers"])
    return _written(g, out)


def fit(model: Any, data: Any, **arguments: Any) -> Guard:
    """See `guard.fit`, whose arguments arrive by name, the score's options as ``options``."""
    a = arguments
    score = create_score(a["score"], **a["options"])
    if score.trained_by:
        raise ConfigError(
            f"score {score.name!r} is learned in training; use guard.train(..., method={score.trained_by!r})"
        )
    device = resolve_device(a["device"])
    out = _run_folder(a["out"], resume=False)
    base = _base_model(model, a, data)
    source = load(data, preprocess=base.preprocess, workers=a["workers"])
    names = tuple(a["class_names"] or source.class_names)
    splits = make_splits(source, a["calibration"], a["test"], a["seed"], a["alpha"])
    classifier: Classifier | TappedClassifier
    if isinstance(base.model, Classifier):
        classifier = base.model
    else:
        probe = GuardModule(_Plain(), score, base.normalisation)  # type: ignore[arg-type]  # only normalises
        example = probe.normalise(torch.from_numpy(np.ascontiguousarray(source.take(np.arange(min(2, len(source)))))))
        classifier = tap_classifier(base.model, example.to(device), a["features"])
    module = GuardModule(classifier, score, base.normalisation).to(device).eval()
    _check_classes(module, base.preprocess, names, source.class_names, device)
    accuracy = fit_score(module, splits.train, batch_size=a["batch_size"])
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
        backbone_options=_backbone_options(classifier, base.model),
        head=base.head,
        score=score.name,
        score_options=score.options.model_dump(),
        score_shapes=build.score_shapes(module.score),
        seed=a["seed"],
        data=(source.card({k: len(v) for k, v in splits.rows.items()}),),
        versions=versions(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    g = _calibrated(manifest, module, splits, a["alpha"], device, None, a["workers"])
    return _written(g, out)


# --------------------------------------------------------------------------------------------------------- data


def make_splits(source: ImageData, calibration: Any, test: Any, seed: int, alpha: float) -> Splits:
    """Hold out calibration and test images by seed, or take data sets of their own for them."""
    own = {name: part for name, part in (("calibration", calibration), ("test", test)) if not _is_amount(part)}
    rows = split(
        source.labels,
        seed=seed,
        calibration=0 if "calibration" in own else calibration,
        test=0 if "test" in own else test,
    )
    loaded = {name: load(part, preprocess=source.preprocess) for name, part in own.items()}
    held_out = loaded.get("calibration") or source.subset(rows["calibration"])
    if len(held_out) < 1 / alpha - 1:
        raise CalibrationError(
            f"alpha={alpha} needs at least {int(np.ceil(1 / alpha)) - 1} calibration images, got {len(held_out)}; "
            "give more data, a larger calibration= share, or a larger alpha"
        )
    tested = loaded.get("test") or (source.subset(rows["test"]) if len(rows["test"]) else None)
    return Splits(source.subset(rows["train"]), held_out, tested, rows)


def _is_amount(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _outliers(method: Method, given: Any, preprocess: Preprocess, workers: int | None) -> ImageData | str | None:
    if method.wants_outliers == "no":
        if given is not None:
            raise ConfigError(f"method {method.name!r} makes its own outliers; leave outliers= away, or use 'oe'")
        return None
    if given is None:
        if method.wants_outliers == "required":
            raise ConfigError(
                f"method {method.name!r} learns from outlier images: give outliers= a folder, Parquet file or data set "
                f"of images that are none of your classes, or one of {', '.join(map(repr, SYNTHESISERS))}"
            )
        return None
    if isinstance(given, str) and given in SYNTHESISERS:
        return given
    return load(given, preprocess=preprocess, labelled=False, workers=workers)


def _check_channels(in_chans: int) -> None:
    if in_chans not in (1, 3):
        raise ConfigError(f"in_chans must be 3 (grey images are repeated) or 1 (colour becomes grey), got {in_chans!r}")


# ------------------------------------------------------------------------------------------------------ network


def _trained_score(method: Method, asked: str | None) -> Score:
    name = asked or method.score
    score = create_score(name, **(method.score_options() if name == method.score else {}))
    if score.trained_by and score.trained_by != method.name:
        raise ConfigError(
            f"score {name!r} is learned by method {score.trained_by!r}, not by {method.name!r}; "
            f"use method={score.trained_by!r}, or score={method.score!r}"
        )
    return score


def _config(
    a: dict[str, Any], method: Method, score: Score, source: ImageData, splits: Splits, outliers: ImageData | str | None
) -> TrainConfig:
    size = source.preprocess.height
    backbone = a["backbone"]
    if backbone == "auto":
        backbone = "wrn16_2" if size <= SMALL_IMAGE else "resnet18"
    augment = a["augment"]
    if augment == "auto":
        augment = "crop" if source.name.startswith("digits") else "crop+flip"
    values = {
        "method": method.name,
        "options": method.options.model_dump(),
        "backbone": backbone,
        "head": a["head"] or ("cosine" if score.name == "cosine" and a["head"] is None else method.head),
        "score": score.name,
        "epochs": a["epochs"] or method.epochs,
        "batch_size": a["batch_size"] or (128 if len(splits.train) >= SMALL_DATA else 32),
        "lr": a["lr"] or method.lr,
        "seed": a["seed"],
        "image_size": size,
        "in_chans": a["in_chans"],
        "pretrained": a["pretrained"],
        "init": str(a["init"]) if a["init"] else None,
        "ema": a["ema"],
        "augment": augment,
        "alpha": a["alpha"],
        "calibration": len(splits.calibration),
        "test": len(splits.test) if splits.test is not None else 0,
        "data_fingerprint": source.fingerprint,
        "outliers_fingerprint": outliers.fingerprint if isinstance(outliers, ImageData) else outliers,
    }
    return parse_options(TrainConfig, values, "guard.train")


def _fresh_module(
    config: TrainConfig, data: ImageData, score: Score, device: torch.device
) -> tuple[GuardModule, Normalisation]:
    torch.manual_seed(config.seed)
    classifier = build.build_classifier(
        config.backbone,
        config.head,
        len(data.class_names),
        in_chans=config.in_chans,
        image_size=config.image_size,
        pretrained=config.pretrained,
    )
    published = pretrained_normalisation(classifier.backbone, config.in_chans) if config.pretrained else None
    normalisation = published or data_normalisation(data)
    if config.init:
        trained = Guard.from_pretrained(config.init, device="cpu")
        try:
            classifier.load_state_dict(trained.module.classifier.state_dict())
        except RuntimeError as error:
            m = trained.manifest
            raise ConfigError(
                f"init={config.init!r} is {m.backbone} with a {m.head} head and {len(m.class_names)} classes, which "
                f"does not fit {config.backbone} with {config.head} and {len(data.class_names)}: {error}"
            ) from None
        normalisation = trained.manifest.normalisation
    classifier = classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return GuardModule(classifier, score, normalisation).to(device), normalisation


def data_normalisation(data: ImageData, images: int = 5000) -> Normalisation:
    """Per-channel mean and std of the first `images` training images, in units of [0, 1]; std at least 1/255."""
    rows = data.take(np.arange(min(images, len(data)))).astype(np.float64) / 255
    mean, std = rows.mean((0, 1, 2)), rows.std((0, 1, 2)).clip(1 / 255)
    return Normalisation(mean=tuple(map(float, mean.round(6))), std=tuple(map(float, std.round(6))))


def _context(
    config: TrainConfig, module: GuardModule, data: ImageData, outliers: ImageData | str | None, device: torch.device
) -> Context:
    labels = data.labels
    assert labels is not None  # guard.train loads labelled data only
    counts = np.bincount(labels, minlength=len(data.class_names))
    with torch.inference_mode():
        module.eval()
        shown = module.taps(build.example_batch(data.preprocess, device))
    return Context(
        num_classes=len(data.class_names),
        num_features=shown.features.shape[1],
        map_shape=tuple(shown.feature_map.shape[1:]) if shown.feature_map is not None else None,
        class_counts=tuple(int(c) for c in counts),
        epochs=config.epochs,
        lr=config.lr,
        batch_size=config.batch_size,
        seed=config.seed,
        device=device,
        outliers=outliers,
        initialised=config.init is not None,
        score=module.score,
    )


def _finish_score(module: GuardModule, data: ImageData) -> None:
    """Fit what the score needs from the trained classifier (trained scores have their state already)."""
    score = module.score
    module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    if score.needs_fit:
        fit_score(module, data)
    elif not score.trained_by:
        last = module.classifier.last_layer()
        score.begin(module.classifier.num_features, len(data.class_names), last)
    score.to(module.scale.device)


# ------------------------------------------------------------------------------------- a model the user has


@dataclass(frozen=True)
class BaseModel:
    """A classifier to be guarded, and the input it was made for."""

    model: nn.Module
    preprocess: Preprocess
    normalisation: Normalisation
    backbone: str
    head: str = "linear"


class _Plain(nn.Module):
    """Stands in for a classifier where only the normalisation of a `GuardModule` is used."""


def _base_model(model: Any, a: dict[str, Any], data: Any) -> BaseModel:
    if isinstance(model, (str, Path)) and Path(model).is_dir():
        model = Guard.from_pretrained(model, device="cpu")
    if isinstance(model, Guard):
        m = model.manifest
        inner = model.module.classifier
        if isinstance(inner, TappedClassifier):
            return BaseModel(inner.model, m.preprocess, m.normalisation, m.backbone, m.head)
        return BaseModel(inner, m.preprocess, m.normalisation, m.backbone, m.head)
    if isinstance(model, (str, Path)):
        model = _timm_by_name(str(model), a, data)
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"model must be a torch.nn.Module, a timm name, a Guard or a run folder, got {type(model).__name__}"
        )
    given = getattr(model, "pretrained_cfg", None) or {}
    channels = a["in_chans"] or int((given.get("input_size") or (3,))[0])
    _check_channels(channels)
    size = a["image_size"] or (given["input_size"][-1] if given.get("input_size") else None)
    if size is None:
        preprocess = load(data, channels=channels, workers=a["workers"]).preprocess
        log.info("image_size not given: the images' own, %d pixels", preprocess.height)
    else:
        options: dict[str, Any] = {}
        if given.get("crop_pct") and not a["image_size"]:
            options["crop_scale"] = round(1 / given["crop_pct"], 6)
        if given.get("interpolation") in ("bilinear", "bicubic"):
            options["interpolation"] = given["interpolation"]
        preprocess = Preprocess(height=size, width=size, channels=channels, **options)
    mean, std = a["mean"] or given.get("mean"), a["std"] or given.get("std")
    if mean is None or std is None:
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        if channels == 1:
            mean, std = (0.449,), (0.226,)
        log.warning("mean= and std= not given: ImageNet's %s, %s; give those the model was trained with", mean, std)
    if len(mean) != channels and len(mean) == 3 and channels == 1:
        mean, std = (sum(mean) / 3,), (sum(std) / 3,)
    normalisation = build.guard_module_normalisation(mean, std, channels)
    return BaseModel(model, preprocess, normalisation, _timm_name(model, channels, preprocess.height))


def _timm_by_name(name: str, a: dict[str, Any], data: Any) -> nn.Module:
    import timm

    from .backbones import create_backbone

    if not timm.is_model(name):
        create_backbone(name)  # raises with near matches, unless it is one of ours
        raise ModelError(f"{name!r} is a backbone without trained weights; train it: guard.train(..., backbone={name!r})")
    classes = len(load(data, image_size=a["image_size"], workers=a["workers"]).class_names)
    try:
        return build.timm_model(name, classes, a["in_chans"] or 3, a["image_size"] or 224, pretrained=True)
    except Exception as error:
        raise ModelError(
            f"the published weights of {name!r} cannot be loaded ({error}); pass the model itself: "
            "guard.fit(my_model, data), or its file: guard fit DATA --model NAME --checkpoint weights.safetensors"
        ) from error


def _timm_name(model: nn.Module, channels: int, size: int) -> str:
    """timm's name where building it gives the same weights' names and shapes, so that a run folder can be reloaded."""
    given = getattr(model, "pretrained_cfg", None) or {}
    name = given.get("architecture")
    if not name:
        return build.CUSTOM
    classes = int(getattr(model, "num_classes", 0) or 0)
    try:
        with torch.device("meta"):
            same = build.timm_model(name, classes, channels, size)
    except Exception:
        return build.CUSTOM
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    return name if {key: value.shape for key, value in same.state_dict().items()} == shapes else build.CUSTOM


def _backbone_options(classifier: Classifier | TappedClassifier, model: nn.Module) -> dict[str, Any]:
    if isinstance(classifier, Classifier):
        return {}
    return {
        "layer": classifier.layer,
        "tap": classifier.tap,
        "num_features": classifier.num_features,
        "architecture": type(model).__name__,
    }


def _check_classes(
    module: GuardModule, preprocess: Preprocess, names: tuple[str, ...], data_names: tuple[str, ...], device: torch.device
) -> None:
    with torch.inference_mode():
        answers = module.taps(build.example_batch(preprocess, device)).logits.shape[1]
    if answers != len(data_names):
        raise ModelError(
            f"the model answers {answers} classes, the data has {len(data_names)} ({', '.join(data_names[:5])} ...); "
            "give data with the model's classes, in the model's order"
        )
    if len(names) != answers:
        raise ConfigError(f"class_names has {len(names)} names for {answers} classes")


# ------------------------------------------------------------------------------------------------------- finish


def _calibrated(
    manifest: Manifest,
    module: GuardModule,
    splits: Splits,
    alpha: float,
    device: torch.device,
    ood_val: Any,
    workers: int | None,
) -> Guard:
    """Threshold from the calibration split; accuracy and false-alarm rate on the test split."""
    runtime = TorchModule(module, manifest.preprocess, str(device))
    g = Guard(manifest, runtime, splits=splits.rows, calibration_images=splits.calibration)
    g = g.with_calibration(g.predict_batches(images for images, _ in splits.calibration.batches(256)).ood_score, alpha=alpha)
    numbers: dict[str, float] = {}
    if splits.test is not None:
        verdicts = g.predict_batches(images for images, _ in splits.test.batches(256))
        numbers["test_images"] = float(len(splits.test))
        numbers["test_accuracy"] = float((verdicts.label == splits.test.labels).mean())
        numbers["test_false_alarm_rate"] = float(verdicts.is_ood.mean())
        low, high = flag_count_interval(len(splits.test), g.manifest.calibration)
        log.info(
            "test: accuracy %.2f %%, false alarms %.1f %% (target %.1f %%, expected %.1f-%.1f %%) of %d images",
            100 * numbers["test_accuracy"],
            100 * numbers["test_false_alarm_rate"],
            100 * alpha,
            100 * low / len(splits.test),
            100 * high / len(splits.test),
            len(splits.test),
        )
        if ood_val is not None:
            for name, images in (ood_val.items() if isinstance(ood_val, dict) else [("ood_val", ood_val)]):
                other = load(images, preprocess=manifest.preprocess, labelled=False, workers=workers)
                scores = g.predict_batches(batch for batch, _ in other.batches(256)).ood_score
                numbers[f"{name}_auroc"] = metrics.auroc(verdicts.ood_score, scores)
                log.info("%s: AUROC %.4f on %d images", name, numbers[f"{name}_auroc"], len(other))
    return g._with(g.manifest.model_copy(update={"metrics": numbers}))


def _run_folder(out: str | Path | None, resume: bool) -> Path | None:
    if out is None:
        if resume:
            raise ConfigError("resume=True needs the run's folder: out='runs/...'")
        return None
    path = Path(out)
    if path.exists() and not path.is_dir():
        raise ConfigError(f"out={str(path)!r} is a file; give a folder")
    held = [name for name in (CHECKPOINT, FOLDER_MANIFEST) if (path / name).exists()]
    if held and not resume:
        raise ConfigError(
            f"{path} already holds a run ({', '.join(held)}); continue it with resume=True (--resume), "
            "or choose another out folder"
        )
    path.mkdir(parents=True, exist_ok=True)
    return path


def _written(g: Guard, out: Path | None) -> Guard:
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
