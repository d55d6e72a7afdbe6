"""kNN against its definition, pytorch-ood and faiss; its options; the reservoir's law. Searches: test_nearest.py."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import scipy.stats
import torch
from pytorch_ood.detector import KNN as Theirs

from guard.errors import ConfigError, DataError
from guard.scores import create_score, nearest
from guard.scores.reservoir import Reservoir
from tests.guard.scores.conftest import Sample
from tests.references import scores as reference


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
    torch.testing.assert_close(score(torch.zeros(1, 10), sample.logits[:1]), torch.ones(1))  # the sphere's centre


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
    with pytest.raises(ConfigError, match=r"select='k_centre' chooses max_bank rows, got max_bank=None; give a number"):
        create_score("knn", max_bank=None, select="k_centre")
    with pytest.raises(ConfigError, match=r"seed=3 is not read with max_bank=None; drop it, or give a number of rows"):
        create_score("knn", max_bank=None, seed=3)


@pytest.mark.parametrize("k", [1, 5, 300])
@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_without_normalising_against_its_definition(sample: Sample, k: int, shift: float) -> None:
    """Everything moved by 1,000: the bank's centre takes it away again, so nothing cancels."""
    features, queries = sample.features + shift, sample.queries + shift
    score = create_score("knn", k=k, normalise=False).fit(features, sample.logits, sample.labels)
    x, y = queries.double().numpy(), features.double().numpy()
    expected = np.sort(((x[:, None] - y) ** 2).sum(-1), 1)[:, k - 1]
    np.testing.assert_allclose(score(queries, sample.query_logits).numpy(), expected, rtol=1e-5)


def test_without_normalising_against_pytorch_ood(sample: Sample) -> None:
    theirs = Theirs(None, k=1, normalize=False)
    theirs.fit_features(sample.features, sample.labels)
    ours = create_score("knn", k=1, normalise=False).fit(sample.features, sample.logits, sample.labels)
    expected = theirs.predict_features(sample.queries).numpy() ** 2
    np.testing.assert_allclose(ours(sample.queries, sample.query_logits).numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("normalise", [True, False])
def test_float32_is_as_good_as_float64(sample: Sample, normalise: bool) -> None:
    """Relative to the distance itself, however small: 1e-3 apart and 30 from zero, the product's terms cancel."""
    near = sample.features[:40] + 1e-3
    score = create_score("knn", k=1, normalise=normalise).fit(sample.features, sample.logits, sample.labels)
    exact = copy.deepcopy(score).double()(near.double(), sample.logits[:40])
    torch.testing.assert_close(score(near, sample.logits[:40]).double(), exact, rtol=2e-3, atol=0)


def test_options_of_older_guards_still_load(sample: Sample) -> None:
    """Before normalise and select there were only these options, and the bank was the whole state."""
    score = create_score("knn", k=5).fit(sample.features, sample.logits, sample.labels)
    assert list(score.state_dict()) == ["bank"]
    old = create_score("knn", k=5, max_bank=50_000, seed=0)
    old.allocate({"bank": (300, 10)})
    old.load_state_dict({"bank": score.bank.clone()})
    assert old(sample.queries, sample.query_logits).equal(score(sample.queries, sample.query_logits))


@pytest.mark.parametrize("normalise", [True, False])
def test_saved_state_is_the_bank_and_what_belongs_to_it(sample: Sample, normalise: bool) -> None:
    score = create_score("knn", k=5, normalise=normalise).fit(sample.features, sample.logits, sample.labels)
    fresh = create_score("knn", **score.options.model_dump())
    fresh.allocate({key: tuple(value.shape) for key, value in score.state_dict().items()})
    fresh.load_state_dict(score.state_dict())
    assert fresh(sample.queries, sample.query_logits).equal(score(sample.queries, sample.query_logits))


def test_new_state_is_searched_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the search keeps of the old bank."""
    monkeypatch.setattr(nearest, "cpu_multiplies_bfloat16", lambda: True)
    g = torch.Generator().manual_seed(0)
    first, second, queries = (torch.randn(n, 8, generator=g) for n in (2500, 2500, 30))
    score, other = (create_score("knn", k=2).fit(rows, rows, rows[:, 0].long()) for rows in (first, second))
    before = score(queries, queries)
    score.load_state_dict(other.state_dict())
    assert score(queries, queries).equal(other(queries, queries))
    assert not score(queries, queries).equal(before)
    assert score.double()(queries.double(), queries).dtype == torch.float64
    assert copy.deepcopy(score).float()(queries, queries).equal(other(queries, queries))


def test_fitting_in_inference_mode_leaves_a_bank_whose_changes_are_counted(sample: Sample) -> None:
    for normalise in (True, False):
        with torch.inference_mode():
            score = create_score("knn", k=2, normalise=normalise)
            score.fit(sample.features, sample.logits, sample.labels)
        assert not score.bank.is_inference()


def test_all_features_are_kept_without_a_bound(sample: Sample) -> None:
    score = create_score("knn", k=3, max_bank=None).fit(sample.features, sample.logits, sample.labels)
    assert score.bank.equal(torch.nn.functional.normalize(sample.features))


def test_a_bank_of_k_centres_covers_more(sample: Sample) -> None:
    """The farthest feature from the bank is nearer than with a sample; it fits in parts as at once."""
    banks = {}
    for select in ("reservoir", "k_centre"):
        score = create_score("knn", k=1, max_bank=20, select=select, normalise=False, seed=1)
        score.fit(sample.features, sample.logits, sample.labels)
        assert score.bank.shape == (20, 10)
        banks[select] = score(sample.features, sample.logits).max()
    assert banks["k_centre"] < 0.7 * banks["reservoir"]


def test_k_centres_are_chosen_from_a_bounded_part_of_the_stream() -> None:
    score = create_score("knn", k=1, max_bank=10, select="k_centre")
    score.begin(3, 2, None)
    for _ in range(50):
        score.update(torch.randn(20, 3), torch.zeros(20, 2), torch.zeros(20))
    assert len(score._reservoir.rows()) == 40
    score.finish()
    assert score.bank.shape == (10, 3)


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
