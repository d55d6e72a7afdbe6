"""The inverted file of `knn` and `nnguide` against exact search, a slow formula, and its graph."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import guard
from guard.errors import DataError
from guard.scores import banked, create_score
from guard.scores.nearest.inverted_file import candidates, closest, enough, inverted_file, recall
from tests.random_guards import make_guard

SCORES = ("knn", "nnguide")
ALL = {"knn": {"k": 7}, "nnguide": {"k": 7, "alpha": 1.0}}


def clusters(count: int, width: int = 16, seed: int = 0) -> torch.Tensor:
    """Rows around twelve centres."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(12, width, generator=torch.Generator().manual_seed(9))
    which = torch.randint(0, 12, (count,), generator=generator)
    return centres[which] + 0.3 * torch.randn(count, width, generator=generator)


def fitted(name: str, **options: object) -> banked.BankScore:
    rows = clusters(3000)
    score = create_score(name, **ALL[name], **options)
    score.fit(rows, rows[:, :4], torch.arange(3000) % 4)
    assert isinstance(score, banked.BankScore)
    return score


def test_every_row_is_in_one_list_and_no_list_is_too_long() -> None:
    bank = clusters(3000)
    lists = inverted_file(bank, seed=0)
    held = lists.members[lists.members >= 0]
    assert sorted(held.tolist()) == list(range(3000))
    sizes = (lists.members >= 0).sum(1)
    assert len(lists.centroids) == len(sizes) <= 219  # 4 sqrt(3000)
    assert lists.members.shape[1] == math.ceil(1.25 * 3000 / len(sizes))
    assert sizes.min() >= 0.25 * 3000 / len(sizes)


def test_lists_of_equal_rows_are_filled_in_turn() -> None:
    bank = torch.ones(100, 3)
    lists = inverted_file(bank, seed=0)
    assert sorted(lists.members[lists.members >= 0].tolist()) == list(range(100))


@pytest.mark.parametrize("offsets", [False, True])
def test_closest_against_a_loop(offsets: bool) -> None:
    bank, queries = clusters(500), clusters(20, seed=1)
    halves = bank.square().sum(-1) / -2 if offsets else None
    lists = inverted_file(bank, seed=0)
    values, rows = closest(queries, bank, halves, lists, 5, 4)
    for query, value, row in zip(queries.double(), values, rows, strict=True):
        near = (query - lists.centroids.double()).square().sum(-1).argsort()[:5]
        read = [int(m) for one in near for m in lists.members[one] if m >= 0]
        all_of = [float(query @ bank[m].double()) + (float(halves[m]) if halves is not None else 0) for m in read]
        best = sorted(range(len(read)), key=lambda i: -all_of[i])[:4]
        assert row.tolist() == [read[i] for i in best]
        np.testing.assert_allclose(value, [all_of[i] for i in best], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SCORES)
def test_with_all_lists_it_is_the_exact_search(name: str) -> None:
    queries = clusters(50, seed=1)
    exact, lists = fitted(name, search="exact"), fitted(name, search="inverted_file", probes=10_000)
    assert exact.lists is None
    assert lists.lists is not None
    torch.testing.assert_close(lists(queries, queries[:, :4]), exact(queries, queries[:, :4]), rtol=1e-5, atol=1e-6)


def test_recall_grows_with_the_lists_read_to_1() -> None:
    bank = clusters(3000)
    lists = inverted_file(bank, seed=0)
    found = [recall(bank, lists, probes, 10, seed=0) for probes in (1, 4, 16, 219)]
    assert found == sorted(found)
    assert found[0] < 0.6
    assert found[2] > 0.97
    assert found[3] == 1


def test_recall_against_a_loop() -> None:
    bank = clusters(200)
    lists = inverted_file(bank, seed=0)
    chosen = torch.randperm(200, generator=torch.Generator().manual_seed(3))
    shares = []
    for i in chosen.tolist():
        distances = (bank - bank[i]).square().sum(-1)
        distances[i] = torch.inf
        true = set(distances.topk(5, largest=False).indices.tolist())
        shares.append(len(true & set(candidates(bank[i : i + 1], lists, 2)[0].tolist())) / 5)
    assert recall(bank, lists, 2, 5, seed=3) == pytest.approx(np.mean(shares), abs=0.01)


@pytest.mark.parametrize("name", SCORES)
def test_auto_is_exact_up_to_a_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fitted(name).lists is None
    monkeypatch.setattr(banked, "EXACT_UP_TO", 2999)
    assert fitted(name).lists is not None


@pytest.mark.parametrize("name", SCORES)
def test_fitting_again_drops_the_lists(name: str) -> None:
    score = fitted(name, search="inverted_file")
    rows = clusters(300, seed=4)
    score.fit(rows, rows[:, :4], torch.arange(300) % 4)
    assert score.lists is not None
    assert int(score.lists.members.max()) == 299


def test_too_few_rows_in_the_lists_are_refused() -> None:
    with pytest.raises(DataError, match=r"probes=1 reads lists of fewer than k=50 rows .* raise probes"):
        create_score("knn", k=50, search="inverted_file", probes=1).fit(
            clusters(3000), clusters(3000)[:, :4], torch.arange(3000) % 4
        )
    lists = inverted_file(clusters(3000), seed=0)
    assert enough(lists, len(lists.centroids), 3000)
    assert not enough(lists, len(lists.centroids) - 1, 3000)


def test_a_poor_recall_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ood_guard"):
        fitted("knn", search="inverted_file", probes=3)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "reading 3 of them finds" in caplog.text
    assert "raise probes" in caplog.text


@pytest.mark.parametrize("name", SCORES)
def test_saved_loaded_and_exported_it_decides_the_same(name: str, tmp_path: Path) -> None:
    g = make_guard(name, "linear", score_options={"search": "inverted_file", "probes": 4, "k": 3})
    images = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), dtype=np.uint8)
    g = g.calibrate(images, alpha=0.2)
    g.save(tmp_path / "run")
    again = guard.load(tmp_path / "run")
    np.testing.assert_array_equal(again.predict(images).ood_score, g.predict(images).ood_score)
    path = guard.export(again, tmp_path / "guard.onnx", data=images)
    report = guard.verify(path, against=tmp_path / "run", data=images)
    assert report.flag_flips == 0
    assert report.max_relative_score_difference < 1e-4
