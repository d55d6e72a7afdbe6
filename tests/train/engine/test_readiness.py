"""Outliers that are never ready are said to be so before the first epoch, and as it happens."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import guard
from guard.errors import ConfigError
from tests.conftest import Arrays
from train.engine.stage_run import StageRun
from train.methods.base import Method, MethodContext, Stage
from train.methods.gcos import GCOS
from train.outliers.base import IDBatch, Outliers, Synthesiser

SHORT: dict[str, Any] = {"backbone": "wrn10_2", "batch_size": 32, "device": "cpu", "augment": "none"}
WARNING = "ends before its outliers are ready"


def ready_at_the_end(folder: Path) -> bool:
    """Whether outliers counted in a step of the last epoch."""
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return bool(last["outliers_ready"] > 0)


@pytest.mark.parametrize("queue", [4, 20, 1000])
@pytest.mark.parametrize("epochs", [1, 2, 3])
@pytest.mark.parametrize("name", ["vos", "npos", "gcos"])
def test_it_is_known_before_the_first_epoch_and_comes_so(
    name: str, epochs: int, queue: int, four: Arrays, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    few = four[0][:160], four[1][:160]
    k = {"k": 2, "select": 2, "n_noise": 9, "keep": 3} if name == "npos" else {}
    with caplog.at_level(logging.WARNING, "ood_guard"):
        guard.train(few, method=name, epochs=epochs, start=0.0, queue=queue, score="msp", out=tmp_path, **k, **SHORT)
    assert (WARNING in caplog.text) == (not ready_at_the_end(tmp_path))
    assert caplog.text.count(WARNING) <= 1
    if (epochs, queue) in ((1, 1000), (3, 4)):
        assert (WARNING in caplog.text) == (epochs == 1)


@pytest.mark.parametrize(
    ("name", "score"), [("npos", "rejection"), ("vos", "energy_logistic"), ("npos", "rejection+knn")]
)
def test_a_score_that_would_learn_nothing_is_refused_before_the_first_epoch(
    name: str, score: str, four: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StageRun, "epoch", lambda *_: pytest.fail("training began"))
    with pytest.raises(ConfigError, match=r"would have learned nothing: stage .*give more epochs, or a small"):
        guard.train(four, method=name, score=score, epochs=1, start=0.0, **SHORT)


class Never(Synthesiser):
    """Features that never become ready, which nobody can foresee."""

    space: ClassVar = "feature"

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        made: Tensor = torch.zeros(4, self.width)
        return Outliers(made, "never", ready=torch.tensor(False))

    width = 128


def test_what_cannot_be_foreseen_is_said_at_the_end(
    four: Arrays, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stages = GCOS.stages

    def never(self: Method, context: MethodContext) -> list[Stage]:
        (stage,) = stages(self, context)  # type: ignore[arg-type]
        Never.width = context.num_features
        return [replace(stage, synthesiser=Never())]

    monkeypatch.setattr(GCOS, "stages", never)
    with caplog.at_level(logging.WARNING, "ood_guard"):
        guard.train(four, method="gcos", epochs=1, score="msp", **SHORT)
    assert caplog.text.count(WARNING) == 1
