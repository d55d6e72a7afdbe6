"""`guard.synth`: data, classifier, synthesiser -> a store, its audit and its gallery."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from guard.artefact.load import load as load_guard
from guard.artefact.places import check_unclaimed
from guard.data import ImageData, load
from guard.data.held_out import Draw
from guard.detector import Guard
from guard.errors import ConfigError
from guard.geometry import size_of
from guard.graph.module import GuardModule
from guard.record import parse_options
from guard.requests import SynthRequest
from guard.runtimes.torch_module import TorchModule, resolve_device
from guard.scores import create_score

from ..classifiers.fresh import build_classifier
from ..classifiers.input import data_normalisation
from ..engine.distributed import Processes, first_speaks, processes
from ..engine.threads import paced
from ..outliers import matching
from ..outliers.audit.audit import audited
from ..outliers.base import ImageSynthesiser, PrepareContext, get_synthesiser
from ..outliers.store.card import NAME as CARD
from ..outliers.store.fill import MOST_BY_DEFAULT, fill
from ..outliers.store.gallery import NAME as GALLERY
from ..outliers.store.gallery import write_gallery
from ..outliers.store.store import Store, open_store
from .assemble import check_models_apart, own_folder


def synth(request: SynthRequest) -> Store:
    """See `guard.synth`."""
    us = processes()  # before the device is used, for each has its own
    device = resolve_device(request.device)
    with paced(request.threads, device), first_speaks():
        return _made(request, us, device)


def _made(request: SynthRequest, us: Processes, device: torch.device) -> Store:
    kind = get_synthesiser(request.method)
    options = dict(request.options)
    parsed = parse_options(kind.Options, options, f"synthesiser {kind.name!r}", also=SynthRequest.model_fields)
    match = matching.checked(request.match)
    check_models_apart(parsed, request.data)
    folder = own_folder(request.out, request.data, "stores/a")
    check_unclaimed(folder, [CARD], [GALLERY] if request.gallery else [])
    g = _classifier(request, kind, kind.needs_classifier(parsed), device)
    if g is not None and (given := request.given()):
        raise ConfigError(f"the classifier says how images become its input; omit {', '.join(given)}")
    source = load(
        request.data,
        preprocess=None if g is None else g.manifest.preprocess,
        image_size=request.image_size,
        channels=request.in_chans,
        geometry=request,
        workers=request.workers,
    )
    used, held_out = divided(source, request, g)
    count = min(MOST_BY_DEFAULT, len(used)) if request.count is None else request.count
    synthesiser = kind(min(request.batch_size, len(used)), len(source.class_names), **options)
    context = PrepareContext(_module(g) or untrained(used, device), used, folder, request.seed, device)
    store = fill(folder, synthesiser, context, count, match=match, batch_size=request.batch_size)
    with us.main_process_first():
        if not us.is_first:
            return open_store(folder)
        if _needs_audit(store, g):
            store = audited(store, used, g, held_out)
        if request.gallery:
            write_gallery(store, used)
    return store


def divided(source: ImageData, request: SynthRequest, g: Guard | None) -> tuple[ImageData, ImageData | None]:
    """The images that `guard.train` would train on, with the same seed and counts, and those that it holds out.

    Outliers made from held-out images would carry them into training. Where the classifier was trained on this data,
    its own splits are drawn again.
    """
    asked = Draw(request.seed, request.calibration, request.test)
    earlier = None if g is None else Draw.of_guard(g.manifest, source)
    rows = (earlier or asked).rows(source)
    held_out = np.sort(np.concatenate([rows["calibration"], rows["test"]]))
    return source.subset(rows["train"]), source.subset(held_out) if len(held_out) else None


def _classifier(
    request: SynthRequest, kind: type[ImageSynthesiser], needed: bool, device: torch.device
) -> Guard | None:
    """The guard whose classifier the synthesiser, or else the audit, uses.

    Raises:
        ConfigError: the synthesiser needs one, and there is none or none that runs in torch.
    """
    if needed and request.classifier is None:
        raise ConfigError(
            f"synthesiser {kind.name!r} uses a trained classifier: give classifier= a run folder "
            "(guard train DATA --out runs/plain, then --classifier runs/plain)"
        )
    g = open_guard(request.classifier, str(device))
    if needed and _module(g) is None:
        raise ConfigError(
            f"synthesiser {kind.name!r} needs the classifier's internal activations, and {request.classifier} shows "
            "its outputs only; give the run folder it was exported from"
        )
    return g


def open_guard(given: Guard | str | Path | None, device: str) -> Guard | None:
    """A guard as it is, or the one at a path."""
    if given is None or isinstance(given, Guard):
        return given
    if Path(given).suffix:
        return load_guard(Path(given), device=device)
    return Guard.from_pretrained(given, device=device)


def _module(g: Guard | None) -> GuardModule | None:
    """The torch module of a guard that has one, so that its features can be seen."""
    return g.runtime.module if g is not None and isinstance(g.runtime, TorchModule) else None


def _needs_audit(store: Store, g: Guard | None) -> bool:
    audit = store.card.audit
    seen_by = audit.classifier if audit is not None else None
    return audit is None or (g is not None and (seen_by is None or seen_by.guard != g.manifest.identity))


def untrained(data: ImageData, device: torch.device) -> GuardModule:
    """A small network for contexts whose synthesiser does not use one."""
    p = data.preprocess
    torch.manual_seed(0)
    classifier = build_classifier(
        "wrn10_2", "linear", len(data.class_names), in_chans=p.channels, image_size=size_of(p)
    )
    return GuardModule(classifier, create_score("energy"), data_normalisation(data)).to(device)
