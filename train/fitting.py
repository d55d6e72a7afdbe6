"""`guard.fit`: a guard for a classifier that the user already has."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from guard.detector import Guard
from guard.errors import ConfigError, ModelError
from guard.manifest import Manifest, Normalisation, Preprocess
from guard.module import Classifier, GuardModule, TappedClassifier
from guard.options import parse_options
from guard.runtimes.torch_module import resolve_device
from guard.scores import create_score

from . import build
from .data import ImageData, load
from .features import fit_score, tap_classifier
from .finish import calibrated, run_folder, versions, written
from .holdout import Splits, is_amount, make_splits

log = logging.getLogger("ood_guard")


def fit(model: Any, data: Any, **arguments: Any) -> Guard:
    """See `guard.fit`, whose arguments arrive by name, the score's options as ``options``."""
    a = arguments
    score = create_score(a["score"], **a["options"])
    if score.trained_by:
        raise ConfigError(
            f"score {score.name!r} is learned in training; use guard.train(..., method={score.trained_by!r})"
        )
    device = resolve_device(a["device"])
    out = run_folder(a["out"], False, data)
    base = _base_model(model, a, data)
    source = base.data or load(data, preprocess=base.preprocess, workers=a["workers"])
    names = tuple(a["class_names"] or source.class_names)
    splits = _fit_splits(base, source, a)
    classifier: Classifier | TappedClassifier
    if isinstance(base.model, Classifier):
        classifier = base.model
    else:
        probe = GuardModule(_Plain(), score, base.normalisation)  # type: ignore[arg-type]  # only normalises
        example = probe.normalise(torch.from_numpy(np.ascontiguousarray(source.take(np.arange(min(2, len(source)))))))
        classifier = tap_classifier(base.model, example.to(device), a["features"] or base.layer)
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
        seed=base.trained.seed if base.trained else a["seed"],
        data=(source.card({k: len(v) for k, v in splits.rows.items()}),),
        versions=versions(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return written(calibrated(manifest, module, splits, a["alpha"], device, {}), out)


def _fit_splits(base: BaseModel, source: ImageData, a: dict[str, Any]) -> Splits:
    """As `make_splits`; but where the network was trained by ood-guard on this very data, its own splits: another seed
    would calibrate on images it was trained on."""
    for card in base.trained.data if base.trained else ():
        if card.fingerprint == source.fingerprint and base.trained and any(card.splits.values()):
            counts = {name: card.splits[name] for name in ("calibration", "test")}
            for name in counts:
                if a[name] is not None and is_amount(a[name]) and a[name] != counts[name]:
                    log.warning("%s=%s is ignored: the split this network was trained with is kept", name, a[name])
            given = {name: a[name] if not is_amount(a[name]) else counts[name] for name in counts}
            return make_splits(source, given["calibration"], given["test"], base.trained.seed, a["alpha"])
    return make_splits(source, a["calibration"], a["test"], a["seed"], a["alpha"])


@dataclass(frozen=True)
class BaseModel:
    """A classifier to be guarded, and the input it was made for."""

    model: nn.Module
    preprocess: Preprocess
    normalisation: Normalisation
    backbone: str
    head: str = "linear"
    trained: Manifest | None = None  # of the guard it comes from
    data: ImageData | None = None  # where finding the input size has loaded it already
    layer: str | None = None  # where its features were found before


class _Plain(nn.Module):
    """Stands in for a classifier where only the normalisation of a `GuardModule` is used."""


def _base_model(model: Any, a: dict[str, Any], data: Any) -> BaseModel:
    if isinstance(model, (str, Path)) and Path(model).is_dir():
        model = Guard.from_pretrained(model, device="cpu")
    if isinstance(model, Guard):
        return _base_of_guard(model, a)
    if isinstance(model, (str, Path)):
        model = _timm_by_name(str(model), a, data)
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"model must be a torch.nn.Module, a timm name, a Guard or a run folder, got {type(model).__name__}"
        )
    given = getattr(model, "pretrained_cfg", None) or {}
    channels: Any = int((given.get("input_size") or (3,))[0]) if a["in_chans"] is None else a["in_chans"]
    build.check_channels(channels)
    size, source = a["image_size"], None
    if size is None and given.get("input_size"):
        size = given["input_size"][-1]
    if size is None:
        source = load(data, channels=channels, workers=a["workers"])
        preprocess = source.preprocess
        log.info("image_size not given: %d pixels (the images' own where all are alike and small)", preprocess.height)
    else:
        options: dict[str, Any] = {}
        if given.get("crop_pct") and not a["image_size"]:
            options["crop_scale"] = round(1 / given["crop_pct"], 6)
        if given.get("interpolation") in ("bilinear", "bicubic"):
            options["interpolation"] = given["interpolation"]
        values = {"height": size, "width": size, "channels": channels, **options}
        preprocess = parse_options(Preprocess, values, "guard.fit: image_size as")
    mean, std = a["mean"] or given.get("mean"), a["std"] or given.get("std")
    if mean is None or std is None:
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        if channels == 1:
            mean, std = (0.449,), (0.226,)
        log.warning("mean= and std= not given: ImageNet's %s, %s; give those the model was trained with", mean, std)
    if len(mean) != channels and len(mean) == 3 and channels == 1:
        mean, std = (sum(mean) / 3,), (sum(std) / 3,)
    normalisation = build.guard_module_normalisation(mean, std, channels)
    name = _timm_name(model, channels, preprocess.height)
    return BaseModel(model, preprocess, normalisation, name, data=source)


def _base_of_guard(g: Guard, a: dict[str, Any]) -> BaseModel:
    """A copy of the classifier inside a guard, with the input that the guard has."""
    m, inner = g.manifest, copy.deepcopy(g.module.classifier)
    own = ["image_size", "in_chans", "mean", "std"] + (["features"] if isinstance(inner, Classifier) else [])
    given = [name for name in own if a[name] is not None]
    if given:
        raise ConfigError(
            f"the guard {m.name!r} has its own {', '.join(given)}; leave {'it' if len(given) == 1 else 'them'} away"
        )
    if isinstance(inner, Classifier):
        return BaseModel(inner, m.preprocess, m.normalisation, m.backbone, m.head, trained=m)
    layer = inner.layer if inner.tap == "output" else None
    return BaseModel(inner.model, m.preprocess, m.normalisation, m.backbone, m.head, trained=m, layer=layer)


def _timm_by_name(name: str, a: dict[str, Any], data: Any) -> nn.Module:
    import timm

    from .backbones import create_backbone

    if not timm.is_model(name):
        create_backbone(name)  # raises with near matches, unless it is one of ours
        raise ModelError(
            f"{name!r} is a backbone without trained weights; train it: guard.train(..., backbone={name!r})"
        )
    classes = len(load(data, image_size=a["image_size"], workers=a["workers"]).class_names)
    try:
        return build.timm_model(name, classes, a["in_chans"] or 3, a["image_size"] or 224, pretrained=True)
    except Exception as error:
        raise ModelError(
            f"the published weights of {name!r} cannot be loaded ({error}); pass the model itself: "
            "guard.fit(my_model, data), or its file: guard fit DATA --model NAME --checkpoint weights.safetensors"
        ) from error


def _timm_name(model: nn.Module, channels: int, size: int) -> str:
    """timm's name where what timm builds under it answers alike with these weights, so that a run folder can be
    reloaded by name; a model made with arguments of its own (another activation, say) is `build.CUSTOM`."""
    given = getattr(model, "pretrained_cfg", None) or {}
    name = given.get("architecture")
    if not name:
        return build.CUSTOM
    classes = int(getattr(model, "num_classes", 0) or 0)
    theirs = copy.deepcopy(model).cpu().float().eval()
    example = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))
    try:
        same = build.timm_model(name, classes, channels, size).eval()
        same.load_state_dict(theirs.state_dict())
        with torch.inference_mode():
            alike = torch.equal(same(example), theirs(example))
    except Exception:  # timm cannot build it, or its weights differ in name or shape
        return build.CUSTOM
    return name if alike else build.CUSTOM


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
    module: GuardModule,
    preprocess: Preprocess,
    names: tuple[str, ...],
    data_names: tuple[str, ...],
    device: torch.device,
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
