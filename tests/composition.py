"""The stages that a method composes, without training anything."""

from __future__ import annotations

from typing import Any

import torch

from guard.scores import create_score
from train.method import Context, Stage
from train.registry import get_method


def stages_of(
    name: str,
    *,
    per_class: int = 30,
    epochs: int = 10,
    initialised: bool = False,
    outliers: Any = None,
    **options: Any,
) -> list[Stage]:
    """For four classes of `per_class` images, 16 features, batches of 20 and the score energy."""
    method = get_method(name)
    context = Context(
        num_classes=4,
        num_features=16,
        map_shape=None,
        class_counts=(per_class,) * 4,
        epochs=epochs,
        lr=0.1,
        batch_size=20,
        seed=0,
        device=torch.device("cpu"),
        outliers=outliers,
        initialised=initialised,
        score=create_score("energy"),
    )
    return method(method.Options(**options)).stages(context)
