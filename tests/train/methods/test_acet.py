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
    from train.engine import stages as loop

    made: list[torch.Tensor] = []
    seen: list[torch.Tensor] = []
    look, outputs = loop.StageRun.look, loop.StageRun._outputs

    def spy_taps(self: loop.StageRun, batch: Any, sampled: Any, generator: Any) -> Any:
        assert isinstance(self.synthesiser, AdversarialNoise) == (method == "acet")
        made.append(sampled.data)
        return outputs(self, batch, sampled, generator)

    def spy_look(self: loop.StageRun, images: torch.Tensor) -> Any:
        seen.append(images)
        return look(self, images)

    monkeypatch.setattr(loop.StageRun, "_outputs", spy_taps)
    monkeypatch.setattr(loop.StageRun, "look", spy_look)
    options: dict[str, Any] = {"steps": 1} if method == "acet" else {}
    images = four[0][::3], four[1][::3]
    guard.train(images, method=method, **{**tiny, "epochs": 1, "augment": "crop+flip"}, **options)
    assert made
    same = all(s[-len(m) :].equal(m) for s, m in zip(seen, made, strict=True))
    assert same == (method == "acet")
