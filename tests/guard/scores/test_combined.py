"""Combined scores: p-value tables against counting, both rules, and the guard that carries them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import guard
from guard.errors import ConfigError
from guard.scores import create_score
from guard.scores.combined import KNOTS, Combined, surprise, surprise_table
from tests.conftest import Arrays


def counted(held_out: np.ndarray, at: np.ndarray) -> np.ndarray:
    """-log p with p(s) = (1 + #{held-out >= s}) / (n + 1), for s among the held-out scores."""
    return -np.log([(1 + (held_out >= s).sum()) / (len(held_out) + 1) for s in at])


def normal(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("n", [2, 7, 1000])
def test_at_the_knots_the_table_counts(n: int) -> None:
    held_out = normal(n).round(decimals=2)  # with ties
    table = surprise_table(held_out)
    inside = table[0, :-1]
    assert torch.isin(inside, held_out).all()
    np.testing.assert_allclose(table[1, :-1], counted(held_out.numpy(), inside.numpy()), rtol=1e-12)
    np.testing.assert_allclose(surprise(inside, table), table[1, :-1], rtol=1e-12)


def test_between_the_knots_it_is_numpys_interpolation() -> None:
    held_out = normal(3000)
    table = surprise_table(held_out)
    assert 0.9 * KNOTS < table.shape[1] <= KNOTS + 1
    at = torch.linspace(float(table[0, 0]) - 1, float(table[0, -1]), 400, dtype=torch.float64)
    np.testing.assert_allclose(surprise(at, table), np.interp(at, table[0], table[1]), rtol=1e-9)
    exact = counted(held_out.numpy(), at.numpy())
    assert np.abs(surprise(at, table).numpy() - exact)[exact < 3].max() < 0.1


def test_the_tail_is_exponential_and_keeps_its_order() -> None:
    """Of exponential scores -log p(s) = s, and the tail continues like that."""
    held_out = torch.empty(20_000, dtype=torch.float64).exponential_(generator=torch.Generator().manual_seed(1))
    table = surprise_table(held_out)
    far = torch.tensor([5.0, 8.0, 20.0, 1000.0], dtype=torch.float64)
    values = surprise(far, table)
    np.testing.assert_allclose(values, far, rtol=0.1)
    assert values.diff().gt(0).all()


def test_any_scale_gives_the_same_surprise() -> None:
    held_out, new = normal(500), normal(50, 1) * 3
    plain = surprise(new, surprise_table(held_out))
    np.testing.assert_allclose(surprise(1e4 * new - 7e3, surprise_table(1e4 * held_out - 7e3)), plain, rtol=1e-9)


def test_scores_that_are_all_equal_still_give_a_table() -> None:
    table = surprise_table(torch.full((30,), 2.5))
    assert surprise(torch.tensor([2.0, 2.5], dtype=torch.float64), table).eq(0).all()
    assert surprise(torch.tensor([2.6], dtype=torch.float64), table).gt(1).all()


def test_scores_that_nearly_coincide_make_no_wall() -> None:
    """Rounding moves a score by 1e-7 of its size; what it moves -log p by must stay small everywhere."""
    held_out = torch.cat([normal(200), normal(200).sign() * 0.5 + 1e-9 * normal(200, 3)])
    table = surprise_table(held_out)
    knots, values = table[0], table[1]
    assert (values.diff() / knots.diff()).max() < 1000 / (knots[-2] - knots[0]) * values.diff().max()
    assert knots.diff().min() >= 0.9e-3 * (knots[-2] - knots[0])


@pytest.mark.parametrize("rule", ["fisher", "tippett"])
def test_the_rules_are_sum_and_maximum(rule: str) -> None:
    features, logits = normal(600).reshape(60, 10).float(), normal(300, 2).reshape(60, 5).float()
    score = create_score("energy+knn", part_options={"knn": {"k": 3}}, rule=rule)
    score.fit(features, logits, torch.arange(60) % 5)
    score.settle(features[:40] + 0.1, logits[:40] + 0.1)
    assert isinstance(score, Combined)
    energy, knn = create_score("energy"), create_score("knn", k=3).fit(features, logits, torch.arange(60) % 5)
    shifted = [part(features[:40] + 0.1, logits[:40] + 0.1) for part in (energy, knn)]
    tables = [surprise_table(s) for s in shifted]
    own = [surprise(part(features, logits).double(), t) for part, t in zip((energy, knn), tables, strict=True)]
    expected = own[0] + own[1] if rule == "fisher" else torch.maximum(*own)
    torch.testing.assert_close(score(features, logits).double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": ["energy"]}, "parts"),
        ({"parts": ["energy", "energy"]}, "each part once"),
        ({"parts": ["energy", "odin"]}, "cannot have 'odin' as a part"),
        ({"parts": ["gram", "multilayer_mahalanobis"]}, "'gram' .* and 'multilayer_mahalanobis' .layer maps."),
        ({"parts": ["gram", "rejection"], "part_options": {"rejection": {"tap": "map"}}}, "one thing can be read"),
        ({"parts": ["rotation", "multilayer_mahalanobis"]}, "give rotation part_options={'rotation': {'passes': 1}}"),
        ({"parts": ["energy", "combined"]}, "cannot have 'combined' as a part"),
        ({"parts": ["energy", "vim"], "part_options": {"knn": {}}}, "options for 'knn'"),
        ({"parts": ["energy", "vimm"]}, "did you mean 'vim'"),
    ],
)
def test_what_cannot_be_combined_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_score("combined", **options)


def test_a_guard_takes_half_of_the_calibration_images_for_the_p_values(
    four: Arrays, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()
    g = guard.fit(model, four, score="energy+mahalanobis", calibration=120, device="cpu")
    assert g.manifest.score == "combined"
    assert g.manifest.calibration is not None
    assert g.manifest.calibration.n == 60
    alone = guard.fit(model, four, score="energy", calibration=120, device="cpu")
    assert alone.manifest.calibration is not None
    assert alone.manifest.calibration.n == 120
    file = guard.export(g, tmp_path / "g.onnx")
    report = guard.verify(file, against=g, data=four)
    assert report.flag_flips == 0
    g.save_pretrained(tmp_path / "g")
    again = guard.Guard.from_pretrained(tmp_path / "g", model=model)
    np.testing.assert_array_equal(again.predict(four[0][:20]).ood_score, g.predict(four[0][:20]).ood_score)
    few = guard.fit(model, four, score="energy+mahalanobis", calibration=30, device="cpu")
    assert few.manifest.calibration is not None
    assert few.manifest.calibration.n == 30
    assert "too few to share" in caplog.text


def test_a_learned_part_is_combined_with_one_that_is_not(four: Arrays, tiny: dict[str, Any]) -> None:
    data = (four[0][:200], four[1][:200])
    options = {"method": "rejection", "tune_epochs": 1, "hidden": 8, **tiny, "epochs": 1, "seed": 0}
    both = guard.train(data, score="rejection+energy", calibration=60, **options)
    alone = guard.train(data, calibration=60, **options)
    part = both.module.score.scores[0]
    assert part.options.hidden == 8
    for mine, theirs in zip(part.parameters(), alone.module.score.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    with pytest.raises(ConfigError, match="learned by method 'rejection'"):
        guard.train(data, method="plain", score="rejection+energy", **{**tiny, "epochs": 1})


def test_what_training_learned_is_carried_over_to_another_fit(
    four: Arrays, tiny: dict[str, Any], tmp_path: Path
) -> None:
    data = (four[0][:200], four[1][:200])
    options = {"method": "rejection", "tune_epochs": 1, "hidden": 8, **tiny, "epochs": 1, "out": tmp_path / "run"}
    trained = guard.train(data, **options)
    both = guard.fit(tmp_path / "run", data, score="rejection+energy", score_options={"rule": "tippett"})
    assert both.manifest.score_options["part_options"]["rejection"]["hidden"] == 8
    learned = trained.module.score.state_dict()
    for key, value in both.module.score.scores[0].state_dict().items():
        assert torch.equal(value, learned[key])
    images = four[0][:30]
    np.testing.assert_array_equal(
        guard.fit(trained, data, score="rejection").predict(images).ood_score, trained.predict(images).ood_score
    )
    both.save_pretrained(tmp_path / "both")
    again = guard.load(tmp_path / "both").predict(images)
    np.testing.assert_array_equal(again.ood_score, both.predict(images).ood_score)
    plain = guard.train(data, **{**tiny, "epochs": 1, "method": "plain"})
    with pytest.raises(ConfigError, match="learns from outliers: give outliers="):
        guard.fit(plain, data, score="rejection+energy")
    with pytest.raises(ConfigError, match="does not learn from outliers"):
        guard.fit(plain, data, score="rejection+energy_logistic", outliers="strokes")
