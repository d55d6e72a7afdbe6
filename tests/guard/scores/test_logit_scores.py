"""msp, max_logit, energy and energy_logistic against their definitions and pytorch-ood."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pytorch_ood.detector import EnergyBased, MaxSoftmax
from pytorch_ood.detector import MaxLogit as TheirMaxLogit

from guard.errors import ConfigError
from guard.scores import create_score
from guard.scores.energy import energy
from guard.scores.energy_logistic import EnergyLogistic, weighted_logsumexp
from guard.scores.max_logit import max_logit
from guard.scores.msp import msp
from tests.references import scores as reference


@pytest.fixture(scope="module", params=[1.0, 30.0, 300.0], ids=lambda scale: f"logits of {scale:g}")
def logits(request: pytest.FixtureRequest) -> torch.Tensor:
    return request.param * torch.randn(64, 7, generator=torch.Generator().manual_seed(3))


def close(ours: torch.Tensor, expected: np.ndarray, rtol: float = 2e-6) -> None:
    np.testing.assert_allclose(ours.double().numpy(), expected, rtol=rtol, atol=2e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 10.0])
def test_msp(logits: torch.Tensor, temperature: float) -> None:
    close(msp(logits, temperature), reference.msp(logits.numpy(), temperature), rtol=2e-5)
    close(msp(logits, temperature), MaxSoftmax.score(logits, t=temperature).numpy())
    assert create_score("msp", temperature=temperature)(logits, logits).equal(msp(logits, temperature))


def test_max_logit(logits: torch.Tensor) -> None:
    close(max_logit(logits), reference.max_logit(logits.numpy()), rtol=0)
    close(max_logit(logits), TheirMaxLogit.score(logits).numpy(), rtol=0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 10.0])
def test_energy(logits: torch.Tensor, temperature: float) -> None:
    close(energy(logits, temperature), reference.energy(logits.numpy(), temperature))
    close(energy(logits, temperature), EnergyBased.score(logits, t=temperature).numpy())
    assert create_score("energy", temperature=temperature)(logits, logits).equal(energy(logits, temperature))


def test_logits_of_a_thousand_neither_overflow_nor_lose_digits() -> None:
    logits = torch.tensor([[1000.0, 999.0, -1000.0], [-1000.0, -1001.0, -1003.0]])
    expected = [-(1000 + math.log1p(math.exp(-1))), 1000 - math.log(1 + math.exp(-1) + math.exp(-3))]
    np.testing.assert_allclose(energy(logits).numpy(), expected, rtol=1e-7)
    np.testing.assert_allclose(weighted_logsumexp(logits, torch.ones(3)).numpy(), -np.array(expected), rtol=1e-7)
    np.testing.assert_allclose(msp(logits).numpy(), reference.msp(logits.numpy()), rtol=1e-6)


def test_confident_images_tie_under_msp_and_not_under_energy() -> None:
    logits = torch.tensor([[40.0, 0.0], [50.0, 0.0]])
    assert msp(logits)[0] == msp(logits)[1] == -1
    assert energy(logits)[0] > energy(logits)[1]


@pytest.mark.parametrize("score", ["msp", "energy"])
@pytest.mark.parametrize("temperature", [0, -1.0])
def test_a_temperature_must_be_positive(score: str, temperature: float) -> None:
    with pytest.raises(ConfigError, match=f"score '{score}' option temperature: .* greater than 0, got {temperature}"):
        create_score(score, temperature=temperature)


def test_an_option_of_the_wrong_type_is_named() -> None:
    with pytest.raises(ConfigError, match=r"score 'energy' option temperature: .* valid number.*, got 'hot'"):
        create_score("energy", temperature="hot")


def test_a_misspelt_option_is_recognised() -> None:
    with pytest.raises(ConfigError, match=r"no option 'temprature'; did you mean 'temperature'.*temperature=1\.0"):
        create_score("energy", temprature=2)


class TestEnergyLogistic:
    weights = torch.tensor([0.5, 2.0, 0.0, 1.0])

    def made(self, weights: torch.Tensor, slope: float, offset: float) -> EnergyLogistic:
        score = EnergyLogistic()
        score.set_link(weights, torch.tensor(slope), torch.tensor(offset))
        return score

    def test_against_its_definition(self) -> None:
        logits = 3 * torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
        ours = self.made(self.weights, 1.7, -0.3)(logits, logits)
        close(ours, reference.energy_logistic(logits.numpy(), self.weights.numpy(), 1.7, -0.3))

    def test_with_equal_weights_it_ranks_as_energy_does(self) -> None:
        logits = 3 * torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
        ours = self.made(torch.ones(4), 2.0, 0.5)(logits, logits)
        torch.testing.assert_close(ours, 2 * energy(logits) - 0.5)

    def test_no_weight_left_is_finite(self) -> None:
        logits = torch.randn(5, 4)
        ours = self.made(torch.zeros(4), 1.0, 0.0)(logits, logits)
        close(ours, reference.energy_logistic(logits.numpy(), np.zeros(4), 1, 0))

    def test_a_class_of_weight_zero_does_not_count(self) -> None:
        logits = torch.randn(5, 4)
        without = self.made(self.weights[[0, 1, 3]], 1.0, 0.0)(logits, logits[:, [0, 1, 3]])
        torch.testing.assert_close(self.made(self.weights, 1.0, 0.0)(logits, logits), without)

    def test_what_it_took_is_a_copy(self) -> None:
        weights = torch.nn.Parameter(torch.ones(4))
        score = EnergyLogistic()
        score.set_link(weights, torch.nn.Parameter(torch.tensor(2.0)), torch.nn.Parameter(torch.tensor(0.0)))
        with torch.no_grad():
            weights.zero_()
        assert score.class_weights.equal(torch.ones(4))
        assert not score.class_weights.requires_grad
        assert not score.link.requires_grad
