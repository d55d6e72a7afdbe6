"""entropy, gen and kl_matching against their definitions and pytorch-ood."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pytorch_ood.detector import GEN as TheirGEN
from pytorch_ood.detector import Entropy as TheirEntropy
from pytorch_ood.detector import KLMatching as TheirKLMatching

from guard.errors import ConfigError
from guard.scores import create_score
from guard.scores.entropy import entropy
from guard.scores.gen import generalised_entropy
from tests.references import scores as reference


def random_logits(size: float, rows: int = 200, classes: int = 7, seed: int = 3) -> torch.Tensor:
    return size * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))


def close(ours: torch.Tensor, expected: np.ndarray, rtol: float, atol: float) -> None:
    np.testing.assert_allclose(ours.double().numpy(), expected, rtol=rtol, atol=atol)


class TestEntropy:
    @pytest.mark.parametrize("size", [1.0, 10.0, 300.0])
    def test_against_its_definition(self, size: float) -> None:
        logits = random_logits(size)
        close(entropy(logits), reference.entropy(logits.numpy()), 1e-5, 3e-7)

    def test_against_pytorch_ood(self) -> None:
        """Which clips probabilities at 1e-7: at most 1e-7 log 1e-7 too much per class."""
        logits = random_logits(1.0)
        close(entropy(logits), TheirEntropy.score(logits).numpy(), 1e-5, 1e-6)
        confident = random_logits(30.0)
        excess = TheirEntropy.score(confident) - entropy(confident)
        assert 1e-7 < excess.max() < 7 * 1e-7 * math.log(1e7) + 1e-6

    def test_no_probability_and_all_of_it(self) -> None:
        logits = torch.tensor([[1000.0, 0.0, -1000.0], [5.0, 5.0, 5.0]])
        close(entropy(logits), np.array([0.0, math.log(3)]), 1e-6, 0)

    def test_the_small_probabilities_of_a_confident_image_count(self) -> None:
        logits = torch.tensor([[20.0, 0.0], [19.0, 0.0]])
        close(entropy(logits), reference.entropy(logits.numpy()), 0.06, 0)


class TestGEN:
    @pytest.mark.parametrize("m", [1, 3, 6, 7, 100])
    @pytest.mark.parametrize("size", [1.0, 10.0])
    def test_against_its_definition(self, size: float, m: int) -> None:
        logits = random_logits(size)
        expected = reference.gen(logits.numpy(), m=m)
        close(create_score("gen", m=m)(logits, logits), expected, 3e-6, 0)

    def test_a_probability_as_near_to_one_as_float32_cannot_say(self) -> None:
        """1 - p is 2e-11: float32 rounds p to 1, and (1 - p)^0.1 would be 0 instead of 0.085."""
        logits = torch.tensor([[24.0, -1.0, -1.0], [60.0, 0.0, 1.0]])
        assert logits.softmax(-1).amax() == 1
        close(generalised_entropy(logits, 0.1, 100), reference.gen(logits.numpy()), 2e-6, 0)

    def test_classes_that_tie_for_the_largest(self) -> None:
        logits = torch.tensor([[3.0, 3.0, 0.0], [2.0, 2.0, 2.0], [40.0, 40.0, 0.0]])
        for m in (1, 2, 3):
            close(generalised_entropy(logits, 0.1, m), reference.gen(logits.numpy(), m=m), 2e-6, 0)

    def test_logits_of_a_thousand_are_finite(self) -> None:
        logits = torch.tensor([[1000.0, 0.0, -1000.0]])
        assert generalised_entropy(logits, 0.1, 100).item() < 1e-40

    @pytest.mark.parametrize("m", [3, None])
    def test_against_pytorch_ood(self, m: int | None) -> None:
        """Which takes the mean of the terms, and clamps p to [1e-7, 1 - 1e-7]: no p is nearer to 0 or 1 here."""
        logits = random_logits(1.0)
        expected = (m or 7) * TheirGEN.score(logits, M=m).numpy()
        close(create_score("gen", m=m or 7)(logits, logits), expected, 1e-5, 0)

    @pytest.mark.parametrize(("option", "bound"), [("gamma", "greater than 0"), ("m", "greater than or equal to 1")])
    def test_options_out_of_range(self, option: str, bound: str) -> None:
        with pytest.raises(ConfigError, match=f"score 'gen' option {option}: .*{bound}, got 0"):
            create_score("gen", **{option: 0})


class TestKLMatching:
    @pytest.mark.parametrize("size", [1.0, 10.0])
    def test_against_its_definition(self, size: float) -> None:
        logits, queries = random_logits(size), random_logits(size, 60, seed=4)
        score = create_score("kl_matching").fit(logits, logits, torch.zeros(200, dtype=torch.long))
        close(score(queries, queries), reference.KLMatching(logits.numpy())(queries.numpy()), 1e-5, 3e-6)

    @pytest.mark.parametrize("size", [1.0, 3.0])
    def test_against_pytorch_ood(self, size: float) -> None:
        """Its d_c is that of the predicted class too; our 1e-12 matters where a d_c is as small only."""
        logits, queries = random_logits(size), random_logits(size, 60, seed=4)
        theirs = TheirKLMatching(None).fit_logits(logits)
        score = create_score("kl_matching").fit(logits, logits, torch.zeros(200, dtype=torch.long))
        close(score(queries, queries), theirs.predict_logits(queries).detach().numpy(), 1e-5, 3e-6)

    def test_a_class_is_that_predicted_not_that_labelled(self) -> None:
        logits = torch.tensor([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
        score = create_score("kl_matching").fit(logits, logits, torch.tensor([1, 0]))
        again = create_score("kl_matching").fit(logits, logits, torch.tensor([2, 2]))
        assert score.log_d.equal(again.log_d)
        assert score(logits, logits).abs().max() < 1e-6

    def test_a_class_that_was_never_predicted_is_left_out(self) -> None:
        logits = torch.tensor([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
        score = create_score("kl_matching").fit(logits, logits, torch.tensor([0, 2]))
        assert score.log_d.shape == (2, 3)
        third = torch.tensor([[0.0, 0.0, 4.0]])
        close(score(third, third), reference.KLMatching(logits.numpy())(third.numpy()), 1e-5, 0)
        assert score(third, third) > 3

    def test_probabilities_of_zero_give_a_number(self) -> None:
        logits = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]])
        score = create_score("kl_matching").fit(logits, logits, torch.tensor([0, 1]))
        even = torch.tensor([[0.0, 0.0]])
        close(score(logits, logits), np.zeros(2), 0, 1e-6)
        close(score(even, even), np.array([-math.log(2) - 0.5 * math.log(1e-12)]), 1e-5, 0)
