"""PixMix against its formula, one image at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from tests.references.pixmix import mixed, outcomes
from train.augmentations import pixmix as module
from train.augmentations.pixmix import ROUNDS, add_, multiply_, pixmix, rounds_of, weights


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("mixer", ["add", "multiply"])
def test_a_mixer_is_its_formula(mixer: str) -> None:
    draw = np.random.default_rng(0)
    x, m = (draw.integers(0, 256, (200, 3, 5, 4)).astype(np.float32) for _ in range(2))
    x[:9], m[:5], m[5:9] = 0, 255, 0
    a, b = (w.clone() for w in weights(200, generator()))
    a[0], b[1] = 1e-6, 0
    made = {"add": add_, "multiply": multiply_}[mixer](torch.from_numpy(x.copy()), torch.from_numpy(m), a, b).clamp(
        0, 255
    )
    for i in range(200):
        of_one = mixed(mixer, x[i].astype(float) / 255, m[i].astype(float) / 255, a[i].item(), b[i].item())
        np.testing.assert_allclose(made[i].numpy() / 255, of_one, atol=1e-5)
    assert (made > 0).float().mean() > 0.3
    assert made.isfinite().all()


def test_the_weights_are_those_of_the_paper() -> None:
    a, b = (w.flatten().numpy() for w in weights(40_000, generator(1)))
    inside = a < 1
    assert inside.mean() == pytest.approx(0.5, abs=0.01)
    assert ((b > 0) == inside).all()
    drawn = (a[inside], b[inside], a[~inside] - 1, -b[~inside])
    for values, (p, q) in zip(drawn, ((3, 1), (1, 3), (1, 3), (1, 3)), strict=True):
        assert stats.kstest(values, stats.beta(p, q).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(a[inside], b[inside])[0, 1]) < 0.03


@pytest.mark.parametrize("n", [1, 2, 7, 128])
def test_as_many_images_have_no_round_as_have_four(n: int) -> None:
    counts = torch.zeros(ROUNDS + 1)
    for seed in range(400):
        rounds, firsts = rounds_of(n, generator(seed))
        counts += torch.bincount(rounds.long(), minlength=ROUNDS + 1)
        for r, first in enumerate(firsts, 1):
            assert (rounds[:first] < r).all()
            assert (rounds[first + 1 :] >= r).all()  # a round's slice has at most one place too many
    assert torch.allclose(counts / counts.sum(), torch.full((ROUNDS + 1,), 0.2), atol=0.09 / n**0.5)


def test_what_becomes_of_a_pixel_has_the_papers_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    """With fixed weights, and copies that are not varied, all outcomes can be counted."""
    a, b, x, m, n, runs = 0.8, 0.3, 60, 200, 1001, 20
    monkeypatch.setattr(module, "varied", lambda images, rows, generator: images[rows].clone())
    fixed = torch.tensor([a, b]).view(2, 1, 1, 1, 1)
    monkeypatch.setattr(module, "weights", lambda rows, generator: fixed.expand(2, rows, 1, 1, 1))
    images, pictures = torch.full((n, 2, 2, 1), x), torch.full((n, 1, 2, 2), m)
    counted = torch.zeros(256)
    for seed in range(runs):
        made = pixmix(images.to(torch.uint8), pictures.to(torch.uint8), generator(seed))
        counted += torch.bincount(made[:, 0, 0, 0].long(), minlength=256)
        assert (made == made[:, :1, :1]).all()
    expected = torch.zeros(256)
    for value, probability in outcomes(x / 255, m / 255, a, b, ROUNDS).items():
        expected[int(255 * value + 0.5)] += probability
    deviation = (expected * (1 - expected) / (n * runs)).sqrt()
    assert ((counted / (n * runs) - expected).abs() <= 5 * deviation + 1e-9).all()
    assert (expected > 0.01).sum() > 8


def test_half_of_the_images_start_varied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROUNDS", 0)
    monkeypatch.setattr(module, "varied", lambda images, rows, generator: 255 - images[rows])
    images = torch.arange(200, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 4, 4, 3).contiguous()
    made = pixmix(images, images.permute(0, 3, 1, 2), generator())
    as_they_were = (made == images).all((1, 2, 3))
    assert as_they_were.sum() == 100
    assert ((made == 255 - images).all((1, 2, 3)) | as_they_were).all()


def test_images_meet_their_own_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "varied", lambda images, rows, generator: images[rows].clone())
    monkeypatch.setattr(
        module,
        "weights",
        lambda rows, generator: torch.tensor([1e-6, 1.0]).view(2, 1, 1, 1, 1).expand(2, rows, 1, 1, 1),
    )
    monkeypatch.setattr(module, "multiply_", add_)
    images = torch.arange(100, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 4, 4, 3).contiguous()
    made = pixmix(images, 200 - images.permute(0, 3, 1, 2), generator())
    own, pictures = (made == images).all((1, 2, 3)), (made == 200 - images).all((1, 2, 3))
    assert (own | pictures).all()
    assert 20 < pictures.sum() < 60  # the last round's: 4 in 5 images have one, and half of those meet the picture
