"""What an earlier stage learned reaches the finished guard, also after a run was stopped in a later stage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import guard
from tests.composition import stopped_run
from tests.conftest import Arrays
from train.losses.base import Regulariser
from train.methods.base import METHODS, MethodContext, Stage
from train.methods.vos import VOS


@pytest.fixture
def vos_then_plain() -> Iterator[str]:
    """A method whose first stage learns the link and whose second stage has no regulariser."""

    class VosThenPlain(VOS):
        name = "vos_then_plain"
        score = "energy"

        def stages(self, context: MethodContext) -> list[Stage]:
            return [*super().stages(context), Stage("settle", 2, 0.01)]

    METHODS.register(VosThenPlain)
    yield VosThenPlain.name
    del METHODS._entries[VosThenPlain.name]


def test_a_resumed_run_hands_over_what_its_first_stage_learned(
    vos_then_plain: str, four: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed: list[dict[str, torch.Tensor]] = []
    original = Regulariser.hand_over

    def spy(self: Any, score: Any) -> None:
        handed.append({name: p.detach().clone() for name, p in self.named_parameters()})
        original(self, score)

    monkeypatch.setattr("train.losses.energy_logistic.EnergyLogisticLoss.hand_over", spy)
    arguments = {"method": vos_then_plain, "backbone": "wrn16_2", "epochs": 1, "start": 0.0, "queue": 8, "seed": 0}
    data = (four[0][:160], four[1][:160])
    guard.train(data, out=tmp_path / "whole", **arguments)

    with stopped_run(monkeypatch, lambda run, number: (run.index, number) == (1, 1)):
        guard.train(data, out=tmp_path / "stopped", **arguments)
    guard.train(data, out=tmp_path / "stopped", resume=True, **arguments)

    whole, resumed = handed
    assert not torch.equal(whole["slope"], torch.tensor(2.0))  # it did learn
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
