"""The hinge against its formula in numpy; its quantile margins against numpy's on the same energies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from guard.data import load
from guard.errors import ConfigError
from guard.graph.module import GuardModule
from guard.graph.outputs import FeatureClassifier, Outputs
from guard.heads import LastLayer
from guard.manifest import Normalisation
from guard.scores import create_score
from train.losses.base import Batch
from train.losses.energy_hinge import EnergyHingeLoss, Margins, energy_hinge_loss
from train.outliers.base import IDBatch, Outliers, PrepareContext, Synthesiser


class MeanColours(FeatureClassifier):
    """Logits (N, 3) are 4 times the mean colours, after a batch norm whose statistics a train-mode pass would move."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.num_features = 3

    def forward(self, x: Tensor) -> Outputs:
        logits = 4 * self.norm(x).mean((2, 3))
        return Outputs(logits, logits, None)

    def last_layer(self) -> LastLayer | None:
        return None


class Flat(Synthesiser):
    """`count` flat images per step, of a random grey between two values."""

    def __init__(self, low: int, high: int, count: int = 40) -> None:
        super().__init__()
        self.low, self.high, self.count = low, high, count
        self.made: list[Tensor] = []

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        grey = torch.randint(self.low, self.high, (self.count, 1, 1, 1), generator=generator, dtype=torch.uint8)
        self.made.append(grey.expand(-1, 8, 8, 3))
        return Outliers(self.made[-1], "flat")


@pytest.fixture
def context(tmp_path: Path) -> PrepareContext:
    """300 bright images under a network in train mode."""
    images = np.random.default_rng(0).integers(150, 256, (300, 8, 8, 3), dtype=np.uint8)
    data = load((images, np.arange(300) % 3))
    normalisation = Normalisation(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    module = GuardModule(MeanColours(), create_score("energy"), normalisation).train()
    return PrepareContext(module, data, tmp_path, 0, torch.device("cpu"))


def energies(images: np.ndarray) -> np.ndarray:
    """-log sum exp of 4 x the normalised mean colours, by numpy; eval-mode batch norm divides by sqrt(1 + 1e-5)."""
    logits = 4 * ((images / 255 - 0.5) / 0.25).mean((1, 2)) / np.sqrt(1 + 1e-5)
    return -np.log(np.exp(logits).sum(1))


def batch_of(inliers: Tensor, outliers: Tensor) -> Batch:
    return Batch(Outputs(inliers, inliers, None), torch.zeros(len(inliers)).long(), Outputs(outliers, outliers, None))


def test_it_is_the_formula() -> None:
    random = np.random.default_rng(0)
    inside, outside = 3 * random.normal(size=(7, 4)), 3 * random.normal(size=(5, 4))
    below, above = -3.0, -2.5
    e_in, e_out = (-np.log(np.exp(x).sum(1)) for x in (inside, outside))
    assert min((e_in > below).sum(), (e_in < below).sum(), (e_out > above).sum(), (e_out < above).sum()) > 0
    expected = np.mean(np.maximum(0, e_in - below) ** 2) + np.mean(np.maximum(0, above - e_out) ** 2)
    terms = EnergyHingeLoss(Margins(below, above), weight=0.1).loss(
        batch_of(torch.from_numpy(inside), torch.from_numpy(outside))
    )
    assert list(terms) == ["energy"]
    assert terms["energy"].item() == pytest.approx(0.1 * expected, rel=1e-5)


def test_its_gradient() -> None:
    inside, outside = torch.tensor([-5.0, -1.0]).double(), torch.tensor([-3.0, 1.0, -9.0]).double()
    arguments = (inside.requires_grad_(), outside.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: energy_hinge_loss(a, b, -4.0, -2.0), arguments)


def test_energies_beyond_their_margins_cost_nothing_and_pull_nothing() -> None:
    inliers, outliers = torch.tensor([-8.0, -30.0], requires_grad=True), torch.tensor([-1.9, 4.0], requires_grad=True)
    loss = energy_hinge_loss(inliers, outliers, -8.0, -2.0)
    loss.backward()
    assert loss.item() == 0
    assert inliers.grad is not None
    assert not inliers.grad.any()


def test_margins_are_quantiles_of_the_starting_network(context: PrepareContext) -> None:
    outliers = Flat(0, 120)
    loss = EnergyHingeLoss(outliers=outliers)
    loss.prepare(context)
    data = context.data
    inside = energies(data.take(np.arange(len(data))).astype(np.float64))
    outside = energies(torch.cat(outliers.made).double().numpy())
    assert len(outside) == 3 * 40
    assert np.quantile(inside, 0.2) < np.quantile(outside, 0.8)
    np.testing.assert_allclose(loss.margins, [np.quantile(inside, 0.2), np.quantile(outside, 0.8)], rtol=1e-4)


def test_preparing_leaves_the_network_as_it_was(context: PrepareContext) -> None:
    before = {k: v.clone() for k, v in context.module.state_dict().items()}
    EnergyHingeLoss(outliers=Flat(0, 120)).prepare(context)
    assert all(v.equal(before[k]) for k, v in context.module.state_dict().items())
    assert all(part.training for part in context.module.modules())
    assert all(p.grad is None for p in context.module.parameters())


def test_margins_in_a_checkpoint_are_not_estimated_again(context: PrepareContext) -> None:
    first = EnergyHingeLoss(outliers=Flat(0, 120))
    first.prepare(context)
    resumed, never_asked = EnergyHingeLoss(outliers=Flat(200, 250)), Flat(0, 1)
    resumed.load_state_dict(first.state_dict())
    resumed._outliers = (never_asked,)
    resumed.prepare(context)
    assert resumed.margins.equal(first.margins)
    assert not never_asked.made


def test_a_margin_that_is_given_stays(context: PrepareContext) -> None:
    loss = EnergyHingeLoss(Margins(inside=-40.0), Flat(0, 120))
    loss.prepare(context)
    assert loss.margins[0].item() == -40
    assert loss.margins[1].isfinite()


def test_outliers_that_the_network_is_surer_of_do_not_swap_the_sides(context: PrepareContext) -> None:
    """Their energies lie below the in-distribution ones; the hinge must still push the latter down."""
    outliers = Flat(250, 256)
    loss = EnergyHingeLoss(outliers=outliers)
    loss.prepare(context)
    inside = energies(context.data.take(np.arange(300)).astype(np.float64))
    assert loss.margins[0] < np.quantile(inside, 0.2) - 1
    assert loss.margins[0] < loss.margins[1]


def test_crossed_margins_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"margin_in must be below margin_out, got -5\.0 and -20\.0; swap the two"):
        EnergyHingeLoss(Margins(-5.0, -20.0))


@pytest.mark.parametrize(
    ("given", "energy", "wanted"),
    [
        (Margins(inside=-23.0), -25.0, (-23.0, -23.0)),
        (Margins(outside=-5.0), -3.0, (-5.0, -5.0)),
        (Margins(inside=-23.0), -5.0, (-23.0, -5.0)),
    ],
)
def test_a_margin_that_is_given_never_takes_the_others_place(
    given: Margins, energy: float, wanted: tuple[float, float], context: PrepareContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the other one's quantile lies on its wrong side, it is moved, and the given one is not."""
    monkeypatch.setattr("train.losses.energy_hinge.sample_energies", lambda *_: (torch.full((3,), energy),) * 2)
    loss = EnergyHingeLoss(given, Flat(0, 120))
    loss.prepare(context)
    assert tuple(loss.margins.tolist()) == wanted
