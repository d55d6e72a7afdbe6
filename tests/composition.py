"""The stages that a method composes, without training anything; and runs that are stopped in one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from guard.scores import Score, create_score
from train.engine.stage_run import StageRun
from train.methods import get_method
from train.methods.base import MethodContext, Stage


def stages_of(
    name: str,
    *,
    per_class: int | tuple[int, int, int, int] = 30,
    epochs: int = 10,
    initialised: bool = False,
    outliers: Any = None,
    score: Score | None = None,
    **options: Any,
) -> list[Stage]:
    """For four classes of `per_class` images, 16 features, batches of 20 and the score energy unless given."""
    method = get_method(name)
    context = MethodContext(
        num_classes=4,
        num_features=16,
        map_shape=None,
        class_counts=(per_class,) * 4 if isinstance(per_class, int) else per_class,
        epochs=epochs,
        lr=0.1,
        batch_size=20,
        seed=0,
        device=torch.device("cpu"),
        outliers=outliers,
        initialised=initialised,
        score=score or create_score("energy"),
    )
    return method(method.Options(**options)).stages(context)


@contextmanager
def stopped_run(monkeypatch: pytest.MonkeyPatch, at: Callable[[StageRun, int], bool]) -> Iterator[None]:
    """What trains in here is interrupted before the first epoch (stage, number from 0) that `at` says, and must be."""
    epoch = StageRun.epoch

    def stopped(self: StageRun, number: int) -> dict[str, float]:
        if at(self, number):
            raise KeyboardInterrupt
        return epoch(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(StageRun, "epoch", stopped)
        with pytest.raises(KeyboardInterrupt):
            yield
