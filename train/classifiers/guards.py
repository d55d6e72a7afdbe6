"""The classifier inside a guard, to give it another score."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from guard.detector import Guard
from guard.errors import ConfigError
from guard.graph.outputs import HookedClassifier

from .base import GivenClassifier


def of_guard(g: Guard, a: dict[str, Any]) -> GivenClassifier:
    """A copy of the classifier inside a guard, with the input that the guard has."""
    m, inner = g.manifest, copy.deepcopy(g.module.classifier)
    own = ["image_size", "in_chans", "mean", "std"] + (["features"] if not isinstance(inner, HookedClassifier) else [])
    given = [name for name in own if a[name] is not None]
    if given:
        raise ConfigError(
            f"the guard {m.name!r} has its own {', '.join(given)}; leave {'it' if len(given) == 1 else 'them'} away"
        )
    model: nn.Module = inner
    layer, rebuild = None, m.backbone_options
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
        class_names=m.class_names,
        rebuild=rebuild,
    )
