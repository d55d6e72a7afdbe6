"""The recommended composition."""

from __future__ import annotations

import pytest
import torch

import guard
from guard.requests import TrainRequest
from guard.scores import create_score
from tests.conftest import Arrays
from train.methods import get_method
from train.runs.fine_tuning import tuned_defaults


def test_its_score_reads_logits_boundaries_and_layers_and_exports() -> None:
    method = get_method("recommended")
    score = create_score("combined", **method(method.Options()).score_options())
    assert [part.name for part in score.parts()] == ["energy", "fdbd", "multilayer_mahalanobis"]
    assert not score.no_export


@pytest.mark.parametrize("channels", [1, 3])
def test_outliers_take_the_place_of_phase_mixes(four: Arrays, channels: int) -> None:
    images, labels = four
    given = {"outliers": {"strokes": 2, "drawn": 1}}
    own = guard.train((images, labels), method="recommended", epochs=1, backbone="wrn10_2", in_chans=channels)
    other = guard.train(
        (images, labels), method="recommended", epochs=1, backbone="wrn10_2", in_chans=channels, **given
    )
    weights = [next(iter(g.module.classifier.parameters())) for g in (own, other)]
    assert not torch.equal(*weights)


@pytest.mark.parametrize(("batch_size", "lr"), [(8, 0.1), (32, 0.1), (64, 0.2), (128, 0.3), (512, 0.3)])
def test_its_learning_rate_grows_with_the_batch_up_to_0_3(four: Arrays, batch_size: int, lr: float) -> None:
    request = TrainRequest(data=four, method="recommended", batch_size=batch_size)
    method = get_method("recommended")
    assert tuned_defaults(request, method(method.Options()), 1000)["lr"] == pytest.approx(lr)
