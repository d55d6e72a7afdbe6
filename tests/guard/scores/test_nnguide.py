"""NNGuide against its definition and pytorch-ood."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch_ood.detector import NNGuide as Theirs

from guard.errors import ConfigError, DataError
from guard.scores import Score, create_score
from tests.guard.scores.conftest import Sample
from tests.references.nnguide import nnguide as reference


def fitted(rows: int, batch: int = 97, **options: object) -> Score:
    """Fitted on `rows` images whose one feature tells their place in the stream; logits are 0, so L = log 2."""
    score = create_score("nnguide", **options)
    score.begin(2, 2, None)
    features = torch.stack([torch.arange(rows) + 1.0, torch.ones(rows)], -1)
    for part in features.split(batch):
        score.update(part, torch.zeros(len(part), 2), torch.zeros(len(part), dtype=torch.long))
    score.finish()
    return score


def places(score: Score) -> np.ndarray:
    """Which images of `fitted`'s stream are in the bank, from 0."""
    return np.sort(np.rint((score.bank[:, 0] / score.bank[:, 1]).numpy()).astype(int) - 1)


@pytest.mark.parametrize("k", [1, 10, 300])
def test_against_its_definition(k: int, sample: Sample) -> None:
    score = create_score("nnguide", k=k, alpha=1).fit(sample.features, sample.logits, sample.labels)
    data = (sample.queries, sample.query_logits, sample.features, sample.logits)
    expected = reference(*(part.numpy() for part in data), k)
    np.testing.assert_allclose(score(sample.queries, sample.query_logits).numpy(), expected, rtol=1e-5, atol=1e-4)


def test_against_pytorch_ood(sample: Sample) -> None:
    """The same with the whole training set as the bank, which is all theirs has; its k is 10 by default."""

    def head(h: torch.Tensor) -> torch.Tensor:
        return h @ sample.last.weight.T + sample.last.bias

    theirs = Theirs(None, head, k=10).fit_features(sample.features, sample.labels)  # type: ignore[arg-type]
    score = create_score("nnguide", k=10, alpha=1).fit(sample.features, sample.logits, sample.labels)
    expected = theirs.predict_features(sample.queries)
    torch.testing.assert_close(score(sample.queries, sample.query_logits), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("rows", "options", "size"),
    [
        (5000, {"k": 7}, 50),  # alpha N
        (5001, {"k": 7}, 51),  # no less than alpha
        (5000, {"k": 100}, 100),  # at least k
        (300, {"k": 5, "alpha": 1.0}, 300),
        (5000, {"k": 5, "alpha": 0.5, "max_bank": 400}, 400),  # bounded
    ],
)
def test_the_bank_is_a_share_of_the_data(rows: int, options: dict, size: int) -> None:
    found = places(fitted(rows, **options))
    assert len(set(found)) == len(found) == size


@pytest.mark.parametrize("max_bank", [200, 50_000])
def test_every_image_has_the_same_chance(max_bank: int) -> None:
    """Images sorted by class: each fifth of the stream gets a fifth of 40 banks of 50, within four standard errors."""
    found = np.concatenate([places(fitted(1000, alpha=0.05, k=5, max_bank=max_bank, seed=s)) for s in range(40)])
    counts = np.histogram(found, bins=5, range=(0, 1000))[0]
    assert counts.sum() == 2000
    assert np.abs(counts - 400).max() < 4 * np.sqrt(2000 * 0.2 * 0.8)


@pytest.mark.parametrize("max_bank", [200, 50_000])
def test_batches_do_not_matter(max_bank: int) -> None:
    banks = [fitted(1000, batch=b, alpha=0.1, k=5, max_bank=max_bank).bank for b in (1, 97, 1000)]
    assert torch.equal(banks[0], banks[1])
    assert torch.equal(banks[0], banks[2])


def test_an_image_without_features_is_as_far_out_as_can_be(sample: Sample) -> None:
    """h = 0 has no direction: its guidance is 0, between that of inliers and of images that point elsewhere."""
    score = create_score("nnguide").fit(sample.features, sample.logits, sample.labels)
    assert float(score(torch.zeros(1, 10), torch.ones(1, 3))) == 0


def test_too_few_images_for_k_are_refused(sample: Sample) -> None:
    with pytest.raises(DataError, match="score 'nnguide' with k=100 needs as many training images, got 99; lower k"):
        create_score("nnguide").fit(sample.features[:99], sample.logits[:99], sample.labels[:99])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"k": 100, "max_bank": 50}, ": max_bank must be at least k=100, got 50"),
        ({"k": 4000}, " option k: Input should be less than or equal to 3840, got 4000"),
        ({"alpha": 0}, " option alpha: Input should be greater than 0, got 0"),
    ],
)
def test_what_it_refuses(options: dict, sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"score 'nnguide'{sentence}"):
        create_score("nnguide", **options)
