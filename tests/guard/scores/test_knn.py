"""kNN against its definition, pytorch-ood and faiss; the reservoir's law."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from pytorch_ood.detector import KNN as Theirs

from guard.errors import ConfigError, DataError
from guard.scores import create_score
from guard.scores.reservoir import Reservoir
from tests.references import scores as reference

from .conftest import Sample


@pytest.mark.parametrize("k", [1, 5, 300])
def test_against_its_definition(sample: Sample, k: int) -> None:
    score = create_score("knn", k=k).fit(sample.features, sample.logits, sample.labels)
    expected = reference.knn(sample.queries.numpy(), sample.features.numpy(), k)
    np.testing.assert_allclose(score(sample.queries, sample.query_logits).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_against_pytorch_ood(sample: Sample) -> None:
    """Its score is the distance, not its square."""
    theirs = Theirs(None, k=7)
    theirs.fit_features(sample.features, sample.labels)
    ours = create_score("knn", k=7).fit(sample.features, sample.logits, sample.labels)
    expected = theirs.predict_features(sample.queries).numpy() ** 2
    np.testing.assert_allclose(ours(sample.queries, sample.query_logits).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_against_faiss(sample: Sample) -> None:
    faiss = pytest.importorskip("faiss")
    unit = torch.nn.functional.normalize
    index = faiss.IndexFlatL2(10)
    index.add(unit(sample.features).numpy())
    expected = index.search(unit(sample.queries).numpy(), 9)[0][:, -1]
    ours = create_score("knn", k=9).fit(sample.features, sample.logits, sample.labels)
    np.testing.assert_allclose(ours(sample.queries, sample.query_logits).numpy(), expected, rtol=1e-4, atol=1e-6)


def test_the_length_of_a_feature_does_not_matter_and_a_zero_feature_is_finite(sample: Sample) -> None:
    score = create_score("knn", k=5).fit(sample.features, sample.logits, sample.labels)
    torch.testing.assert_close(
        score(1e4 * sample.queries, sample.query_logits),
        score(sample.queries, sample.query_logits),
        rtol=1e-4,
        atol=1e-6,
    )
    assert score(torch.zeros(1, 10), sample.logits[:1]).item() == 2  # at right angles to everything


def test_the_score_lies_between_0_and_4(sample: Sample) -> None:
    nearest, farthest = (
        create_score("knn", k=k).fit(sample.features, sample.logits, sample.labels) for k in (1, len(sample.features))
    )
    assert nearest(sample.features, sample.logits).abs().max() < 1e-6  # itself
    assert (farthest(-sample.features, sample.logits) - 4).abs().max() < 2e-6


def test_fewer_images_than_k_is_said(sample: Sample) -> None:
    with pytest.raises(DataError, match=r"k=50 needs as many training images, got 49; lower k"):
        create_score("knn").fit(sample.features[:49], sample.logits[:49], sample.labels[:49])


def test_a_bank_smaller_than_k_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"max_bank.*at least k=50, got 20"):
        create_score("knn", max_bank=20)


def test_a_bounded_bank_is_a_part_of_the_features(sample: Sample) -> None:
    score = create_score("knn", k=3, max_bank=40, seed=5).fit(sample.features, sample.logits, sample.labels)
    unit = torch.nn.functional.normalize(sample.features)
    assert score.bank.shape == (40, 10)
    assert all((unit == row).all(1).any() for row in score.bank)
    again = create_score("knn", k=3, max_bank=40, seed=5).fit(sample.features, sample.logits, sample.labels)
    other = create_score("knn", k=3, max_bank=40, seed=6).fit(sample.features, sample.logits, sample.labels)
    assert again.bank.equal(score.bank)
    assert not other.bank.equal(score.bank)


def test_the_reservoir_keeps_everything_in_order_while_it_fits() -> None:
    reservoir = Reservoir(10)
    for part in torch.arange(10.0).split(3):
        reservoir.add(part)
    assert reservoir.rows().tolist() == list(range(10))


def test_the_reservoir_keeps_copies() -> None:
    reservoir, rows = Reservoir(4), torch.arange(8.0)
    reservoir.add(rows[:6])
    rows.zero_()
    assert reservoir.rows().min() >= 0
    assert reservoir.rows().sum() > 0


@pytest.mark.parametrize("batch", [1, 7, 40])
def test_every_row_of_the_stream_is_kept_with_equal_probability(batch: int) -> None:
    """4,000 reservoirs of 5 out of 40: chi-square over how often each row was kept. Per row np(1 - p) is the
    variance of the count, so the sum of squares is scaled by 1 - p and by 39/40 for the fixed total."""
    runs, size, stream = 4000, 5, 40
    kept = np.zeros(stream)
    for seed in range(runs):
        reservoir = Reservoir(size, seed)
        for part in torch.arange(stream).split(batch):
            reservoir.add(part)
        rows = reservoir.rows().numpy()
        assert len(set(rows.tolist())) == size
        kept[rows] += 1
    share = size / stream
    statistic = ((kept - runs * share) ** 2).sum() / (runs * share * (1 - share)) * (stream - 1) / stream
    assert scipy.stats.chi2.sf(statistic, stream - 1) > 1e-3
