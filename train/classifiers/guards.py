"""The classifier inside a guard, to give it another score."""

from __future__ import annotations

import copy

from torch import nn

from guard.detector import Guard
from guard.errors import ConfigError
from guard.graph.outputs import HookedClassifier
from guard.requests import FitRequest

from .base import GivenClassifier
from .input import given_input


def of_guard(g: Guard, request: FitRequest) -> GivenClassifier:
    """A copy of the classifier inside a guard, with the input that the guard has.

    Raises:
        ConfigError: another input, or other features, were asked for.
    """
    m, inner = g.manifest, copy.deepcopy(g.module.classifier)
    given = given_input(request)
    if request.features is not None and not isinstance(inner, HookedClassifier):
        given = (*given, "features")
    if request.outputs != "auto":
        given = (*given, "outputs")
    if given:
        raise ConfigError(
            f"the guard {m.name!r} has its own {', '.join(given)}; omit {'it' if len(given) == 1 else 'them'}"
        )
    model: nn.Module = inner
    layer, rebuild = None, m.backbone_options
    outputs = rebuild.get("outputs", "logits")
    if isinstance(inner, HookedClassifier):
        model, layer = inner.model, inner.layer if inner.side == "output" else None
        rebuild = rebuild if "kind" in rebuild else {}
    return GivenClassifier(
        model,
        m.preprocess,
        m.normalisation,
        m.backbone,
        m.head,
        trained=m,
        score=g.module.score,
        layer=layer,
        outputs=outputs,
        class_names=m.class_names,
        rebuild=rebuild,
    )
