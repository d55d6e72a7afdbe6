"""What `guard.synth` calls: data, classifier, synthesiser -> a store, its audit and its gallery."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from guard.data import ImageData, load, split
from guard.data.held_out import is_amount
from guard.detector import Guard
from guard.errors import ConfigError
from guard.graph.module import GuardModule
from guard.manifest import Manifest
from guard.record import parse_options
from guard.requests import SynthRequest
from guard.runtimes.torch_module import resolve_device
from guard.scores import create_score

from ..classifiers.fresh import build_classifier
from ..classifiers.input import data_normalisation
from ..engine.distributed import processes
from ..outliers import matching
from ..outliers.audit.audit import audited
from ..outliers.base import ImageSynthesiser, PrepareContext, get_synthesiser
from ..outliers.store.fill import MOST_BY_DEFAULT, check_seed, fill
from ..outliers.store.gallery import write_gallery
from ..outliers.store.store import Store, open_store


def synth(request: SynthRequest) -> Store:
    """See `guard.synth`."""
    a, data = dict(request), request.data
    us = processes()  # before the device is used, for each has its own
    kind = get_synthesiser(a["method"])
    options = parse_options(kind.Options, dict(request.options), f"synthesiser {kind.name!r}", also=a)
    looks = kind.needs_classifier(options)
    match = matching.checked(a["match"])
    check_seed(a["seed"])
    device = resolve_device(a["device"])
    folder = store_folder(a["out"], data)
    if looks and a["classifier"] is None:
        raise ConfigError(
            f"synthesiser {kind.name!r} looks through a trained classifier: give classifier= a run folder "
            "(guard train DATA --out runs/plain, then --classifier runs/plain)"
        )
    g = open_guard(a["classifier"], str(device))
    if looks and not _has_module(g):
        raise ConfigError(
            f"synthesiser {kind.name!r} needs the classifier's insides, and {a['classifier']} shows its outputs only; "
            "give the run folder it was exported from"
        )
    source = load(
        data,
        preprocess=g.manifest.preprocess if g is not None else None,
        image_size=a["image_size"],
        channels=a["in_chans"],
        workers=a["workers"],
    )
    used, held_out = divided(source, a, g.manifest if g is not None else None)
    count = min(MOST_BY_DEFAULT, len(used)) if a["count"] is None else a["count"]
    per_draw = min(a["batch_size"], len(used))
    synthesiser: ImageSynthesiser = kind(per_draw, len(source.class_names), **a["options"])
    module = g.module if _has_module(g) and g is not None else untrained(used, device)
    context = PrepareContext(module, used, folder, a["seed"], device)
    store = fill(folder, synthesiser, context, count, match=match, batch_size=a["batch_size"])
    with us.main_process_first():
        if not us.is_first:
            return open_store(folder)
        if _needs_audit(store, g):
            store = audited(store, used, g, held_out)
        if a["gallery"]:
            write_gallery(store, used)
    return store


def _needs_audit(store: Store, g: Guard | None) -> bool:
    audit = store.card.audit
    seen_by = audit.classifier if audit is not None else None
    return audit is None or (g is not None and (seen_by is None or seen_by.guard != g.manifest.identity))


def store_folder(out: Any, data: Any) -> Path:
    """Where a store goes.

    Raises:
        ConfigError: it is a file, or the folder of the images.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"out={str(folder)!r} is a file; give a folder")
    if isinstance(data, str | Path) and Path(data).is_dir() and Path(data).resolve() == folder.resolve():
        raise ConfigError(f"out={str(folder)!r} is the folder of the images; choose another, e.g. out='stores/a'")
    return folder


def open_guard(given: Any, device: str) -> Guard | None:
    """A guard as it is, or the one at a path."""
    if given is None or isinstance(given, Guard):
        return given
    if Path(given).suffix:
        from guard.artefact.load import load as load_guard

        return load_guard(Path(given), device=device)
    return Guard.from_pretrained(given, device=device)


def _has_module(g: Guard | None) -> bool:
    """Whether it runs in torch, so that its features can be seen."""
    return g is not None and hasattr(g.runtime, "module")


def divided(source: ImageData, a: Mapping[str, Any], manifest: Manifest | None) -> tuple[ImageData, ImageData | None]:
    """The images that `guard.train` would train on, with the same seed and counts, and those that it holds out.

    Outliers made from held-out images would carry them into training. Where the classifier was trained on this data,
    its own splits are drawn again.
    """
    assert source.labels is not None  # loaded as labelled
    seed, sizes = a["seed"], {k: a[k] if is_amount(a[k]) else 0 for k in ("calibration", "test")}
    card = next((c for c in manifest.data if c.fingerprint == source.fingerprint), None) if manifest else None
    if manifest is not None and card is not None and card.splits and card.images == len(source):
        seed, sizes = manifest.seed, {k: card.splits.get(k, 0) for k in sizes}
    rows = split(source.labels, seed=seed, **sizes)
    held_out = np.sort(np.concatenate([rows["calibration"], rows["test"]]))
    return source.subset(rows["train"]), source.subset(held_out) if len(held_out) else None


def untrained(data: ImageData, device: torch.device) -> GuardModule:
    """A small network for settings whose synthesiser does not look at one."""
    p = data.preprocess
    torch.manual_seed(0)
    classifier = build_classifier("wrn10_2", "linear", len(data.class_names), in_chans=p.channels, image_size=p.height)
    return GuardModule(classifier, create_score("energy"), data_normalisation(data)).to(device)
