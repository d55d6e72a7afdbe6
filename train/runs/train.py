"""What `guard.train` calls: data, network, stages, score; `fit` is in fitting.py, both end in finish.py."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from guard.calibration.conformal import reachable_rank
from guard.data import ImageData, load
from guard.data.held_out import Splits, make_splits, open_ood_val, settled
from guard.detector import Guard
from guard.errors import ConfigError
from guard.graph.module import GuardModule
from guard.heads import head_class
from guard.manifest import Manifest, Normalisation, versions
from guard.record import parse_options
from guard.requests import TrainRequest
from guard.runtimes.torch_module import resolve_device
from guard.scores import Score, create_score

from ..backbones import automatic_backbone, check_backbone, pretrained_normalisation
from ..classifiers.fresh import build_classifier
from ..classifiers.input import check_channels, data_normalisation, example_batch
from ..classifiers.rebuild import misfit, score_shapes
from ..engine.distributed import processes
from ..engine.loader import Feed
from ..engine.stages import train_stages
from ..features.extract import fit_score
from ..methods.base import Method, MethodContext, get_method
from ..outliers.base import OutlierMix, list_synthesisers
from ..outliers.sources import mix_fingerprint, outlier_mix
from .assemble import calibrated, run_folder, written
from .request import TrainConfig

SMALL_DATA = 5000  # images; below, smaller batches give an epoch enough steps
OWN_HEAD = {"cosine": "cosine", "reject_class": "c_plus_1"}  # of the scores that one head is made for


def train(request: TrainRequest) -> Guard:
    """See `guard.train`."""
    a, data = dict(request), request.data
    processes()  # before the device is used: a launcher gives each process its own
    method_class = get_method(a["method"])
    method: Method = method_class(
        parse_options(method_class.Options, dict(request.options), f"method {method_class.name!r}", also=a)
    )
    score = _trained_score(method, a["score"] or method.head_scores.get(a["head"]), a["score_options"])
    device = resolve_device(a["device"])
    _check_before_loading(a, method, score)
    out = run_folder(a["out"], a["resume"], data)
    source = load(data, image_size=a["image_size"], channels=a["in_chans"], workers=a["workers"])
    splits = make_splits(source, a["calibration"], a["test"], a["seed"], a["alpha"], a["temperature_scaling"])
    ood_val = open_ood_val(a["ood_val"], splits, a["workers"])
    outliers = outlier_mix(a["outliers"], source.preprocess, a["workers"])
    config = _config(a, method, score, source, splits, outliers)
    module, normalisation = _fresh_module(config, splits.train, score, device)
    stages = method.stages(_context(config, module, splits.train, outliers, device))
    train_stages(module, Feed(splits.train), stages, config, device=device, out=out, resume=a["resume"])
    _finish_score(module, splits.train)
    splits = settled(module, splits, a["alpha"])
    manifest = Manifest(
        name=out.resolve().name if out else f"{method.name}-{config.backbone}",
        class_names=source.class_names,
        preprocess=source.preprocess,
        normalisation=normalisation,
        method=method.name,
        method_options=method.options.model_dump(),
        backbone=config.backbone,
        head=config.head,
        head_options=config.head_options,
        score=score.name,
        score_options=score.options.model_dump(),
        score_shapes=score_shapes(module.score),
        seed=config.seed,
        data=(source.card({k: len(v) for k, v in splits.rows.items()}),),
        versions=versions(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return written(calibrated(manifest, module, splits, a, device, ood_val), out)


def _check_before_loading(a: dict[str, Any], method: Method, score: Score) -> None:
    """Whatever can be refused without the images: decoding them may take minutes."""
    check_channels(a["in_chans"])
    if a["backbone"] != "auto":
        check_backbone(a["backbone"])
    if method.wants_outliers == "no" and a["outliers"] is not None:
        raise ConfigError(f"method {method.name!r} makes its own outliers; leave outliers= away, or use 'oe'")
    if method.wants_outliers == "required" and a["outliers"] is None:
        raise ConfigError(
            f"method {method.name!r} learns from outlier images: give outliers= a folder, Parquet file or data set "
            f"of images that are none of your classes, or one of {', '.join(map(repr, list_synthesisers()))}"
        )
    method.check_outliers(a["outliers"])
    reachable_rank(10**9, a["alpha"])
    unknown_yet = {"backbone": a["backbone"], "batch_size": a["batch_size"] or 32, "augment": "none"}
    if a["augment"] != "auto":
        unknown_yet["augment"] = a["augment"]
    placeholders = {"seed": 0, "alpha": 0.05, "image_size": 32, "calibration": 0, "test": 0, "data_fingerprint": ""}
    parse_options(TrainConfig, {**_asked(a, method, score), **unknown_yet, **placeholders}, "guard.train")


def _trained_score(method: Method, asked: str | None, given: Any) -> Score:
    name = asked or method.score
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(f"score_options takes a mapping such as {{'k': 10}}, got {given!r}")
    options = dict(given or {})
    if name == method.score:
        options = {**method.score_options(), **options}
    elif method.score in (name.split("+") if "+" in name else options.get("parts", ())):
        own = {**method.score_options(), **options.get("part_options", {}).get(method.score, {})}
        options["part_options"] = {**options.get("part_options", {}), method.score: own}
    score = create_score(name, **options)
    if score.trained_by and score.trained_by not in (method.name, method.teaches):
        raise ConfigError(
            f"score {name!r} is learned by method {score.trained_by!r}, not by {method.name!r}; "
            f"use method={score.trained_by!r}, or score={method.score!r}"
        )
    return score


def _asked(a: dict[str, Any], method: Method, score: Score) -> dict[str, Any]:
    """The part of `TrainConfig` that does not depend on the data."""
    head = a["head"] or OWN_HEAD.get(score.name, method.head)
    if "extra class" in score.needs and head != "c_plus_1":
        raise ConfigError(f"score {score.name!r} reads the extra class of head='c_plus_1'; head={head!r} has none")
    if method.heads and head not in method.heads:
        raise ConfigError(f"method {method.name!r} trains head={' or '.join(map(repr, method.heads))}, not {head!r}")
    return {
        "method": method.name,
        "options": method.options.model_dump(),
        "head": head,
        "head_options": head_options(head, a["head_options"]),
        "score": score.name,
        "score_options": score.options.model_dump(),
        "epochs": method.epochs if a["epochs"] is None else a["epochs"],
        "lr": method.lr if a["lr"] is None else a["lr"],
        "seed": a["seed"],
        "in_chans": a["in_chans"],
        "pretrained": a["pretrained"],
        "init": str(a["init"]) if a["init"] else None,
        "ema": a["ema"],
        "alpha": a["alpha"],
    }


def head_options(head: str, given: Any) -> dict[str, Any]:
    """A head's options with every default in place; `given` is a mapping or None."""
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(f"head_options takes a mapping such as {{'margin': 0.3}}, got {given!r}")
    return parse_options(head_class(head).Options, dict(given or {}), f"head {head!r}").model_dump()


def _config(
    a: dict[str, Any], method: Method, score: Score, source: ImageData, splits: Splits, outliers: OutlierMix | None
) -> TrainConfig:
    size = source.preprocess.height
    backbone = a["backbone"]
    if backbone == "auto":
        backbone = automatic_backbone(size)
    augment = a["augment"]
    if augment == "auto":
        augment = "crop" if source.name.startswith("digits") else "crop+flip"
    values = {
        **_asked(a, method, score),
        "backbone": backbone,
        "batch_size": (128 if len(splits.train) >= SMALL_DATA else 32) if a["batch_size"] is None else a["batch_size"],
        "image_size": size,
        "augment": augment,
        "calibration": len(splits.calibration),
        "test": len(splits.test) if splits.test is not None else 0,
        "data_fingerprint": source.fingerprint,
        "outliers_fingerprint": mix_fingerprint(outliers),
    }
    return parse_options(TrainConfig, values, "guard.train")


def _fresh_module(
    config: TrainConfig, data: ImageData, score: Score, device: torch.device
) -> tuple[GuardModule, Normalisation]:
    torch.manual_seed(config.seed)
    classifier = build_classifier(
        config.backbone,
        config.head,
        len(data.class_names),
        in_chans=config.in_chans,
        image_size=config.image_size,
        pretrained=config.pretrained,
        head_options=config.head_options,
    )
    published = pretrained_normalisation(classifier.backbone, config.in_chans) if config.pretrained else None
    normalisation = published or data_normalisation(data)
    if config.init:
        trained = Guard.from_pretrained(config.init, device="cpu")
        m = trained.manifest
        try:
            state = trained.module.classifier.state_dict()
            if (m.head, config.head) == ("linear", "c_plus_1"):
                state = _with_extra_class(state, classifier)
            elif m.head != config.head:
                raise RuntimeError("the heads differ")  # some have weights of the same shape
            classifier.load_state_dict(state)
        except RuntimeError as error:
            raise ConfigError(
                f"init={config.init!r} is {m.backbone} with a {m.head} head, {len(m.class_names)} classes and "
                f"{m.preprocess.channels} channels, which does not fit {config.backbone} with a {config.head} head, "
                f"{len(data.class_names)} classes and {config.in_chans} channels ({misfit(error)})"
            ) from None
        normalisation = m.normalisation
    classifier = classifier.to(memory_format=torch.channels_last)
    return GuardModule(classifier, score, normalisation).to(device), normalisation


def _with_extra_class(state: dict[str, Tensor], classifier: nn.Module) -> dict[str, Tensor]:
    """The weights of a classifier with a linear head, and the untrained last class of one with a C + 1 head."""
    fresh = classifier.state_dict()
    extra = {name: torch.cat([state[name], fresh[name][-1:]]) for name in ("head.linear.weight", "head.linear.bias")}
    return {**state, **extra}


def _context(
    config: TrainConfig, module: GuardModule, data: ImageData, outliers: OutlierMix | None, device: torch.device
) -> MethodContext:
    labels = data.labels
    assert labels is not None  # guard.train loads labelled data only
    counts = np.bincount(labels, minlength=len(data.class_names))
    with torch.inference_mode():
        module.eval()
        shown = module.outputs(example_batch(data.preprocess, device))
    return MethodContext(
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
    module.to(memory_format=torch.contiguous_format)
    if score.needs_fit:
        fit_score(module, data)
    elif not score.trained_by:
        last = module.classifier.last_layer()
        score.begin(module.classifier.num_features, len(data.class_names), last)
    score.to(module.scale.device)
