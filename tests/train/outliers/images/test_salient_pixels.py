"""Salient pixels against slow formulas: finite differences of the logit, one image and one pixel at a time."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
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
from train.engine.precision import computing_in
from train.outliers.base import IDBatch, PrepareContext
from train.outliers.images import SalientPixels
from train.outliers.images.salient_pixels import dithered, overdrawn, shuffle_salient, true_logit_gradient

STD = (0.2, 0.25, 0.3)


@pytest.fixture(autouse=True)
def _full_precision() -> Iterator[None]:
    with computing_in("fp32"):
        yield


class Toy(FeatureClassifier):
    """A convolution, a batch norm, a smooth non-linearity, three classes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(channels, 8, 3), nn.BatchNorm2d(8), nn.Tanh(), nn.Conv2d(8, 3, 3))
        self.num_features = 3

    def forward(self, x: Tensor) -> Outputs:
        logits = 20 * self.body(x).square().mean((2, 3))
        return Outputs(logits, logits, None)

    def last_layer(self) -> LastLayer | None:
        return None


def toy(channels: int = 3, order: str = "rgb") -> GuardModule:
    """In train mode, with batch-norm statistics of its own."""
    normalisation = Normalisation(mean=(0.5,) * channels, std=STD[:channels], channel_order=order)
    module = GuardModule(Toy(channels), create_score("energy"), normalisation).train()
    norm = module.classifier.body[1]
    norm.running_mean.normal_(generator=generator(5)), norm.running_var.fill_(0.5)
    return module


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(n: int = 6, side: int = 8, channels: int = 3) -> IDBatch:
    images = torch.randint(0, 256, (n, side, side + 2, channels), generator=generator(1), dtype=torch.uint8)
    return IDBatch(images, torch.arange(n) % 3)


def prepared(
    module: GuardModule, tmp_path: Path, count: int, falls: tuple[float, int] | None = None, **options: object
) -> SalientPixels:
    made = SalientPixels(count, 3, falls=falls, **options)
    data = load((batch().images.numpy(), batch().labels.numpy()))
    made.prepare(PrepareContext(module, data, tmp_path, 0, torch.device("cpu")))
    return made


def true_logits(module: GuardModule, pixels: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        logits = copy.deepcopy(module).eval().double().classifier(module.normalise(pixels).double()).logits
    return logits[torch.arange(len(labels)), labels]


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_the_gradient_is_the_eval_mode_logits_of_the_normalised_image(order: str) -> None:
    module, (images, labels, *_) = toy(order=order), batch(2)
    found = true_logit_gradient(module, images, labels)
    network = copy.deepcopy(module.classifier).eval().double()
    x = module.normalise(images).double()
    for c, row, column in [(0, 3, 4), (1, 0, 0), (2, 7, 9)]:
        step = torch.zeros_like(x)
        step[:, c, row, column] = 1e-4
        with torch.no_grad():
            up, down = (network(x + sign * step).logits[torch.arange(2), labels] for sign in (1, -1))
        torch.testing.assert_close(found[:, c, row, column].double(), (up - down) / 2e-4, rtol=1e-3, atol=1e-5)


def test_the_network_stays_as_it_was() -> None:
    module = toy()
    frozen = module.classifier.body[1].eval()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    weight = next(module.parameters())
    weight.grad = torch.ones_like(weight)
    true_logit_gradient(module, *batch()[:2])
    assert all(v.equal(before[k]) for k, v in module.state_dict().items())
    assert weight.grad.eq(1).all()
    assert [p.grad for p in module.parameters()].count(None) == len(list(module.parameters())) - 1
    assert module.training
    assert not frozen.training


@pytest.mark.parametrize("channels", [1, 3])
def test_the_most_salient_pixels_are_permuted_and_no_other_changes(channels: int) -> None:
    images = torch.arange(2 * 6 * 5 * channels, dtype=torch.uint8).view(2, 6, 5, channels)
    gradient = torch.randn(2, channels, 6, 5, generator=generator())
    moved = shuffle_salient(images, gradient, 9, generator())
    for image, now, g in zip(images.tolist(), moved.tolist(), gradient.tolist(), strict=True):
        places = [(r, c) for r in range(6) for c in range(5)]
        places.sort(key=lambda at: -sum(math.exp(g[k][at[0]][at[1]]) for k in range(channels)))
        chosen, rest = places[:9], places[9:]
        assert all(now[r][c] == image[r][c] for r, c in rest)
        assert sorted(now[r][c] for r, c in chosen) == sorted(image[r][c] for r, c in chosen)
        assert sum(now[r][c] != image[r][c] for r, c in chosen) > 4
    order = [
        now.index(moved[0].view(-1, channels)[i].tolist())
        for now in [images[0].view(-1, channels).tolist()]
        for i in range(30)
    ]
    second = [(x - 30 * channels) // channels for x in moved[1].view(-1, channels)[:, 0].tolist()]
    assert order != second  # each image in an order of its own


def test_large_gradients_still_have_an_order() -> None:
    gradient = torch.zeros(1, 1, 4, 4)
    gradient[0, 0, 1] = torch.tensor([200.0, 300.0, 400.0, 500.0])  # whose exp is infinite in float32
    images = torch.arange(16, dtype=torch.uint8).view(1, 4, 4, 1)
    moved = shuffle_salient(images, gradient, 2, generator(3)).view(16)
    assert set(moved.ne(torch.arange(16)).nonzero().view(-1).tolist()) <= {6, 7}


def test_the_gradient_is_added_where_it_is_largest() -> None:
    gradient = torch.randn(2, 3, 4, 5, generator=generator())
    found = overdrawn(gradient, 12, 0.3)
    for g, change in zip(gradient.flatten(1).tolist(), found.flatten(1).tolist(), strict=True):
        least = sorted((abs(x) for x in g), reverse=True)[11]
        assert change == pytest.approx([0.3 * x if abs(x) >= least else 0.0 for x in g])


def test_fractions_of_a_grey_level_have_the_right_mean() -> None:
    pixels = torch.tensor([0.0, -3.0, 0.03, 100.25, 254.9, 255.0, 300.0]).expand(20000, 7)
    mean = dithered(pixels, generator()).double().mean(0)
    assert mean.tolist() == pytest.approx([0, 0, 0.03, 100.25, 254.9, 255, 255], abs=0.015)
    assert dithered(pixels, generator())[:, [0, 1, 5, 6]].unique().tolist() == [0, 255]


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_a_change_below_a_grey_level_is_no_change_of_nothing(order: str, tmp_path: Path) -> None:
    """Mean over many draws: x + alpha G, in the pixels' units, on the entries of largest |G| and nowhere else."""
    module, ids = toy(order=order), batch(3)
    made = prepared(module, tmp_path, 3000, mode="gradient", share=0.25, step=0.02)
    made.start_epoch(1, generator())
    outliers = made.sample(ids, generator())
    change = torch.zeros(3, 8, 10, 3, dtype=torch.float64)
    assert outliers.parents is not None
    gradient = true_logit_gradient(module, ids.images, ids.labels).double()
    for i in range(3):
        mine = outliers.parents[:, 0] == i
        assert mine.sum() == 1000
        change[i] = (outliers.data[mine].double() - ids.images[i].double()).mean(0)
        flat = gradient[i].flatten()
        chosen = flat.abs() >= flat.abs().sort(descending=True).values[59]  # 0.25 of 240
        expected = (0.02 * flat * chosen).view(3, 8, 10) * 255 * torch.tensor(STD).view(3, 1, 1)
        expected = expected.flip(0) if order == "bgr" else expected
        inside = (ids.images[i] > 5) & (ids.images[i] < 250)  # others are cut
        assert 0 < expected.abs().max() < 1.5
        assert (change[i] - expected.permute(1, 2, 0))[inside].abs().max() < 0.08
        assert change[i][expected.permute(1, 2, 0) == 0].abs().max() == 0
    logged = made.learn(ids, module, generator())["grey_levels"]
    assert 0.01 < logged < 0.5


def test_adding_the_gradient_raises_the_true_logit_and_permuting_lowers_it(tmp_path: Path) -> None:
    module, ids = toy(), batch(30)
    before = true_logits(module, ids.images, ids.labels)
    for options, sign in ({"mode": "gradient", "step": 2.0}, 1), ({"mode": "shuffle", "share": 0.3}, -1):
        made = prepared(module, tmp_path, 30, **options)
        made.start_epoch(1, generator())
        outliers = made.sample(ids, generator())
        assert outliers.parents is not None
        rows = [
            next(i for i in range(30) if (outliers.data[k].int() - ids.images[i].int()).eq(0).float().mean() > 0.4)
            for k in range(30)
        ]
        assert sorted(rows) == list(range(30))  # each image once
        assert outliers.parents[:, 0].equal(ids.labels[rows])
        after = true_logits(module, outliers.data, ids.labels[rows])
        assert (sign * (after - before[rows])).mean() > 0.03


@pytest.mark.parametrize("count", [1, 7, 20])
def test_as_many_as_asked_of_any_batch(count: int, tmp_path: Path) -> None:
    made = prepared(toy(), tmp_path, count)
    outliers = made.sample(batch(7), generator())
    assert outliers.data.shape == (count, 8, 10, 3)
    assert outliers.parents is not None
    assert outliers.data.dtype == torch.uint8


def test_alpha_falls_over_the_epochs(tmp_path: Path) -> None:
    made = prepared(toy(), tmp_path, 4, (30.0, 3), mode="gradient", step=300.0)
    seen = []
    for _ in range(3):
        made.start_epoch(1, generator())
        seen.append(float(made.alpha()))
    assert seen == pytest.approx([300, 210, 120])
    again = prepared(toy(), tmp_path, 4, (30.0, 3), mode="gradient", step=300.0)
    again.load_state_dict(made.state_dict())
    assert float(again.alpha()) == pytest.approx(120)


def test_it_needs_a_network_and_owns_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="call prepare"):
        SalientPixels(4, 3).sample(batch(), generator())
    made = prepared(toy(), tmp_path, 4)
    assert not list(made.parameters())
    assert set(made.state_dict()) == {"started"}
    with pytest.raises(ConfigError, match=r"step=2\.0 is not read with mode='shuffle'"):
        SalientPixels(4, 3, step=2.0)


def test_the_gradient_is_taken_in_the_stages_precision() -> None:
    module, ids = toy(), batch(4)
    full = true_logit_gradient(module, ids.images, ids.labels)
    with computing_in("bf16"):
        half = true_logit_gradient(module, ids.images, ids.labels)
    assert half.dtype == torch.float32
    assert not half.equal(full)
    assert np.corrcoef(half.flatten(), full.flatten())[0, 1] > 0.99
