"""Invariants: how many, that they are near zero on the data and nowhere else, and that a killed training resumes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from guard.data import load
from train.cache import trained_network as kept
from train.outliers.base import PrepareContext
from train.outliers.conditioning import invariants
from train.outliers.conditioning.cvpn import Variant
from train.outliers.conditioning.invariants import InvariantOptions, Invariants, count_invariants, fitted_invariants
from train.outliers.conditioning.low_density import ClassGaussians, LowDensityOptions

CLASSES, WIDTH = 3, 8


@pytest.fixture
def context(tmp_path: Path) -> PrepareContext:
    images = np.zeros((6, 4, 4, 1), np.uint8)
    data = load((images, np.arange(6) % CLASSES), channels=1)
    return PrepareContext(None, data, tmp_path, 0, torch.device("cpu"))  # type: ignore[arg-type]  # it reads no network


def curved(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A curved surface of 3 dimensions in 8 for each class, each elsewhere and turned otherwise; a little noise."""
    rng = np.random.default_rng(seed)
    classes = np.arange(n) % CLASSES
    turns = np.random.default_rng(7).standard_normal((CLASSES, 5, WIDTH))
    centres = np.random.default_rng(8).standard_normal((CLASSES, WIDTH))
    u = rng.uniform(-1, 1, (n, 3))
    inside = np.stack([u[:, 0], u[:, 1], u[:, 2], u[:, 0] ** 2, u[:, 1] * u[:, 2]], 1) / 3
    x = np.einsum("nk,nkd->nd", inside, turns[classes]) + centres[classes] + 0.01 * rng.standard_normal((n, WIDTH))
    return torch.from_numpy(x).float(), torch.from_numpy(classes)


# ------------------------------------------------------------------------------------------------- how many


def paper_count(x: np.ndarray, share: float) -> int:
    """The largest number of last principal components with less than `share` of the variance; the null space too."""
    ratios = PCA(svd_solver="full").fit(x).explained_variance_ratio_
    ratios = np.concatenate([ratios, np.zeros(x.shape[1] - len(ratios))])
    return max(k for k in range(x.shape[1] + 1) if ratios[len(ratios) - k :].sum() < share)


def code_count(x: np.ndarray, share: float) -> int:
    """As the official code has it."""
    cumulative = np.cumsum(PCA(svd_solver="full").fit(x).explained_variance_ratio_)
    return x.shape[1] - int(np.argmax(cumulative > 1 - share))


@pytest.mark.parametrize(("variant", "count"), [("paper", paper_count), ("code", code_count)])
@pytest.mark.parametrize("share", [0.005, 0.02, 0.05, 0.3])
@pytest.mark.parametrize("n", [200, 5])
def test_k_is_the_mean_over_classes_of_scikit_learns_counts(
    n: int, share: float, variant: Variant, count: Callable[[np.ndarray, float], int]
) -> None:
    rng = np.random.default_rng(1)
    spectra = [np.geomspace(1, 1e-3, 20), np.geomspace(1, 1e-1, 20), np.geomspace(1, 0.4, 20)]
    x = np.concatenate([rng.standard_normal((n, 20)) * s for s in spectra])
    classes = torch.arange(3).repeat_interleave(n)
    expected = np.mean([count(x[classes == c], share) for c in range(3)])
    assert count_invariants(torch.from_numpy(x), classes, share, variant) == min(int(expected), 19)


def test_classes_without_variance_do_not_count_and_k_stays_inside() -> None:
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 1, 1, 1e-4, 1e-4, 1e-4])
    classes = torch.tensor([0] * 38 + [1, 2])  # one vector each of classes 1 and 2
    assert count_invariants(x, classes, 0.02) == 3
    assert count_invariants(torch.zeros(4, 6), torch.zeros(4, dtype=torch.int64), 0.02) == 5
    assert count_invariants(torch.randn(50, 6), torch.zeros(50, dtype=torch.int64), 1e-9) == 1


# ------------------------------------------------------------------------------------------------- fit


@pytest.mark.parametrize(("variant", "epochs"), [("paper", 80), ("code", 50)])
def test_invariants_are_small_on_the_data_and_larger_on_outliers(
    context: PrepareContext, variant: Variant, epochs: int
) -> None:
    """On held-out data, against the method's own outliers, other classes' data, and coordinates put together anew."""
    x, y = curved(320)
    fitted = fitted_invariants(context, x, y, InvariantOptions(share=0.05, epochs=epochs, lr=0.02), variant)
    held, classes = curved(300, seed=5)

    def size(of: Tensor, of_classes: Tensor) -> float:
        with torch.no_grad():
            return float(fitted(of, of_classes).square().mean().sqrt())

    inside = size(held, classes)
    with torch.no_grad():
        v = fitted.cvpn(x, y)
        gaussians = ClassGaussians(v, y, CLASSES, LowDensityOptions(ridge=0.2))
        drawn = torch.arange(300) % CLASSES
        outliers = fitted.cvpn.inverse(gaussians.sample(drawn, torch.Generator().manual_seed(0)), drawn)
        assert (fitted.cvpn.inverse(v, y) - x).abs().max() < 1e-4
    assert inside < 0.2 * float((v - v.mean(0)).std())
    assert size(outliers, drawn) > 2 * inside
    assert size(held, (classes + 1) % CLASSES) > 2 * inside
    shuffled = torch.stack([column[torch.randperm(300)] for column in held.T], 1)
    assert size(shuffled, classes) > 2 * inside


def test_the_two_variants_take_different_coordinates_and_losses() -> None:
    x, y = curved(64)
    torch.manual_seed(0)
    paper = Invariants(WIDTH, CLASSES, 3)
    code = Invariants(WIDTH, CLASSES, 3, "code")
    v = torch.arange(16.0).view(2, 8)
    assert paper.of(v)[0].tolist() == [0, 1, 2]
    assert code.of(v)[0].tolist() == [5, 6, 7]
    for network in (paper, code):
        with torch.no_grad():
            before, again = network.cvpn(x, y), network.cvpn(network.reconstructed(x, y), y)
        zeroed = network.of(before).flatten()[:5]
        torch.testing.assert_close(network.of(again), torch.zeros(64, 3), atol=1e-3, rtol=0)
        kept_as_they_were = (again - before).square().sum() - network.of(before).square().sum()
        assert zeroed.abs().min() > 1e-3
        assert abs(float(kept_as_they_were)) < 1e-2
    assert set(paper.update(x, y)) == {"invariants"}
    first = code.update(x, y)
    assert set(first) == {"invariants", "reconstruction"}
    assert {int(s["step"]) for s in paper.optimizers()["cvpn"].state.values()} == {1}
    assert {int(s["step"]) for s in code.optimizers()["cvpn"].state.values()} == {2}
    for _ in range(60):
        last = code.update(x, y)
    assert last["invariants"] < first["invariants"]
    assert last["reconstruction"] < first["reconstruction"]


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_steps_are_those_of_the_losses_as_they_are_written(variant: Variant) -> None:
    """Two batches: one Adam, of the sum over coordinates (paper) or of means over all numbers (code)."""
    x, y = curved(64)
    torch.manual_seed(0)
    ours = Invariants(WIDTH, CLASSES, 3, variant, lr=0.05, unit=0.5)
    plain = copy.deepcopy(ours)
    adam = torch.optim.Adam(plain.parameters(), lr=0.05)
    for _ in range(2):
        losses = ours.update(x, y)
        v = plain.cvpn(x, y) / 0.5
        invariants = v[:, :3] if variant == "paper" else v[:, 5:]
        numbers = {"paper": 64, "code": 64 * 3}[variant]
        expected = sum((invariants**2).flatten()) / numbers
        torch.testing.assert_close(losses["invariants"], expected.detach())
        adam.zero_grad()
        expected.backward()
        adam.step()
        if variant == "code":
            v = plain.cvpn(x, y)
            back = plain.cvpn.inverse(torch.cat([v[:, :5], torch.zeros(64, 3)], 1), y)
            expected = sum((((back - x) / 0.5) ** 2).flatten()) / (64 * WIDTH)
            torch.testing.assert_close(losses["reconstruction"], expected.detach())
            adam.zero_grad()
            expected.backward()
            adam.step()
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], rtol=1e-3, atol=1e-4)


def test_small_embeddings_are_learned_as_large_ones(context: PrepareContext) -> None:
    """In units of their own size: the same invariants, as small beside the embeddings."""
    x, y = curved(150)
    options = InvariantOptions(epochs=20, lr=0.02)
    large, small = fitted_invariants(context, x, y, options), fitted_invariants(context, 0.01 * x, y, options)
    as_they_are = fitted_invariants(context, 0.01 * x, y, options.model_copy(update={"standardise": False}))
    assert float(large.cvpn.unit) == pytest.approx(float(x.square().mean().sqrt()))
    assert float(as_they_are.cvpn.unit) == 1
    with torch.no_grad():
        g = small(0.01 * x, y)
        torch.testing.assert_close(g, 0.01 * large(x, y), rtol=1e-2, atol=1e-4)
        assert as_they_are(0.01 * x, y).square().mean() > 1.2 * g.square().mean()


def test_the_learning_rate_falls_to_a_tenth() -> None:
    network = Invariants(WIDTH, CLASSES, 3, lr=1e-3)
    rates = []
    for progress in (0.0, 0.5, 1.0):
        network.at(progress)
        rates.append(network.optimizers()["cvpn"].param_groups[0]["lr"])
    assert rates == pytest.approx([1e-3, 5.5e-4, 1e-4])


def test_a_killed_training_ends_as_an_uninterrupted_one(
    context: PrepareContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = curved(150)
    monkeypatch.setattr(invariants, "KEPT_EVERY", 2)
    options = InvariantOptions(epochs=3, lr=1e-2)
    whole = fitted_invariants(context, x, y, options, "code").state_dict()
    (path,) = context.folder.iterdir()
    path.unlink()
    keep, epochs = kept._keep, []

    def killed(*arguments: Any) -> None:
        keep(*arguments)
        epochs.append(arguments[2])
        if arguments[2] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(kept, "_keep", killed)
        with pytest.raises(KeyboardInterrupt):
            fitted_invariants(context, x, y, options, "code")
        torch.manual_seed(77)  # what was drawn in between does not matter
        again = fitted_invariants(context, x, y, options, "code").state_dict()
    assert epochs == [1, 2, 3]
    assert all(value.equal(again[name]) for name, value in whole.items())
    fitted_invariants(context, x + 1, y, options, "code")
    fitted_invariants(context, x, y, options.model_copy(update={"lr": 1e-3}), "code")
    assert len(list(context.folder.iterdir())) == 3  # other embeddings, other options
    monkeypatch.setattr(Invariants, "update", lambda *_: pytest.fail("trained again"))
    taken = fitted_invariants(context, x, y, options, "code").state_dict()
    assert all(value.equal(taken[name]) for name, value in whole.items())


@pytest.mark.parametrize(("n", "given", "passes"), [(640, None, 200), (40_000, None, 50), (640, 30, 30)])
def test_two_hundred_passes_unless_there_are_many_embeddings(
    context: PrepareContext, monkeypatch: pytest.MonkeyPatch, n: int, given: int | None, passes: int
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(invariants, "train_kept", lambda *arguments: asked.extend(arguments[5:]))
    x, y = curved(n)
    fitted_invariants(context, x, y, InvariantOptions(epochs=given))
    schedule, _, source = asked
    assert schedule.batch_size == 64
    assert schedule.epochs * len(source) == pytest.approx(passes * n, rel=0.2)
    assert schedule.epochs * len(source) >= passes * n
    assert len(source) >= min(150 * 64, passes * n)
    order = torch.arange(len(source))
    seen = torch.cat([batch.images for batch in source.batches(order, 64, torch.device("cpu"))])
    assert seen.equal(x.repeat(len(source) // n, 1))
