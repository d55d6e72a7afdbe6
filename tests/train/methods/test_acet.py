"""ACET: what it attacks is what it trains on."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import guard
from tests.conftest import Arrays
from train.outliers.images import AdversarialNoise


@pytest.mark.parametrize("method", ["acet", "ceda"])
def test_the_network_sees_the_attacked_images_as_they_are_and_plain_noise_augmented(
    method: str, four: Arrays, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from train.engine.forward import Forward
    from train.engine.stage_run import StageRun

    made: list[torch.Tensor] = []
    seen: list[torch.Tensor] = []
    forward, outputs = Forward.outputs, StageRun._outputs

    def spy_outputs(self: StageRun, batch: Any, sampled: Any, *more: Any) -> Any:
        assert isinstance(self.synthesiser, AdversarialNoise) == (method == "acet")
        made.append(sampled.data)
        return outputs(self, batch, sampled, *more)

    def spy_forward(self: Forward, images: torch.Tensor) -> Any:
        seen.append(images)
        return forward(self, images)

    monkeypatch.setattr(StageRun, "_outputs", spy_outputs)
    monkeypatch.setattr(Forward, "outputs", spy_forward)
    options: dict[str, Any] = {"steps": 1} if method == "acet" else {}
    images = four[0][::3], four[1][::3]
    guard.train(images, method=method, **{**tiny, "epochs": 1, "augment": "crop+flip"}, **options)
    assert made
    same = all(s[-len(m) :].equal(m) for s, m in zip(seen, made, strict=True))
    assert same == (method == "acet")
