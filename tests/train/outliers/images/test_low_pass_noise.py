"""Low-pass noise against scipy's filter; the attack's ball, objective and side effects."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor, nn

from guard.data import load
from guard.errors import ConfigError
from guard.graph.module import GuardModule
from guard.graph.outputs import FeatureClassifier, Outputs
from guard.heads import LastLayer
from guard.manifest import Normalisation
from guard.scores import create_score
from train.losses.max_confidence import log_confidence
from train.outliers.base import IDBatch, PrepareContext, create_synthesiser
from train.outliers.images import AdversarialNoise, LowPassNoise
from train.outliers.images.adversarial_noise import worst_nearby
from train.outliers.images.low_pass_noise import low_pass, permute_pixels, stretch


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=generator(1), dtype=torch.uint8)


# ------------------------------------------------------------------------------------------------------------ noise


@pytest.mark.parametrize("shape", [(3, 16, 20, 3), (2, 8, 8, 1), (1, 5, 30, 3)])
def test_the_filter_is_scipys(shape: tuple[int, ...]) -> None:
    images, std = random_images(*shape), torch.linspace(1.0, 2.5, shape[0])
    found = low_pass(images, std)
    for image, width, row in zip(images.numpy(), std.tolist(), found.numpy(), strict=True):
        expected = scipy.ndimage.gaussian_filter(
            image.astype(np.float64), (width, width, 0), mode="nearest", radius=(7, 7, 0)
        )
        np.testing.assert_allclose(row, expected, rtol=1e-5)


def test_permuted_pixels_are_the_same_pixels_each_image_in_an_order_of_its_own() -> None:
    images = torch.arange(64 * 3, dtype=torch.uint8).reshape(1, 8, 8, 3).repeat(2, 1, 1, 1)
    moved = permute_pixels(images, generator())
    pixels = [sorted(map(tuple, image.reshape(-1, 3).tolist())) for image in (images[0], *moved)]
    assert pixels[0] == pixels[1] == pixels[2]
    assert not moved[0].equal(images[0])
    assert not moved[0].equal(moved[1])


def test_stretching_fills_the_range_and_keeps_flat_images_finite() -> None:
    found = stretch(torch.tensor([[3.0, 5.0, 4.0], [7.0, 7.0, 7.0]]).reshape(2, 1, 3, 1))
    assert found.flatten().tolist() == [0, 255, 127.5, 0, 0, 0]


@pytest.mark.parametrize("channels", [1, 3])
def test_half_is_made_of_training_images_whose_classes_are_named(channels: int) -> None:
    dark = (random_images(6, 12, 12, channels) // 255) * 255  # nearly everywhere black, so that sources can be told
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    made = LowPassNoise(40, 2).sample(IDBatch(dark, labels), generator())
    assert made.data.shape == (40, 12, 12, channels)
    assert made.data.dtype == torch.uint8
    assert made.parents is not None
    assert (made.parents[20:] == -1).all()
    assert set(made.parents[:20].flatten().tolist()) == {0, 1}
    means = made.data.float().mean((1, 2, 3))
    assert means[:20].mean() < 40
    assert means[20:].mean() > 100
    flat = made.data[20:].flatten(1)
    assert (flat.amin(1) == 0).all()
    assert (flat.amax(1) == 255).all()


def test_wider_filters_make_smoother_noise() -> None:
    def roughness(least: float, most: float) -> float:
        made = create_synthesiser("low_pass_noise", 20, 2, least=least, most=most)
        x = made.sample(IDBatch(random_images(6, 16, 16, 3), torch.arange(6) % 2), generator()).data.float()
        return float((x[:, 1:] - x[:, :-1]).abs().mean())

    assert roughness(1.0, 1.0) > roughness(1.0, 2.5) > roughness(2.5, 2.5)
    with pytest.raises(ConfigError, match=r"least must be at most most, got 3\.0 and 2\.5; swap the two"):
        LowPassNoise(4, 2, least=3.0)


# ------------------------------------------------------------------------------------------------------- the attack


class Toy(FeatureClassifier):
    """Convolution, batch norm, pooling, 3 classes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 3, 3))
        self.num_features = 3

    def forward(self, x: Tensor) -> Outputs:
        logits = 20 * self.body(x).mean((2, 3))
        return Outputs(logits, logits, None)

    def last_layer(self) -> LastLayer | None:
        return None


@pytest.fixture
def module() -> GuardModule:
    """In train mode."""
    normalisation = Normalisation(mean=(0.5,) * 3, std=(0.25,) * 3)
    return GuardModule(Toy(), create_score("energy"), normalisation).train()


def confidence(module: GuardModule, images: Tensor) -> Tensor:
    with torch.no_grad():
        return log_confidence(copy.deepcopy(module).eval().outputs(images).logits)


@pytest.mark.parametrize("steps", [1, 10])
@pytest.mark.parametrize("epsilon", [0.5, 12.3, 76.5, 255.0])
def test_it_stays_in_the_ball_and_among_images(module: GuardModule, epsilon: float, steps: int) -> None:
    noise = torch.cat([random_images(6, 8, 8, 3), torch.zeros(1, 8, 8, 3).byte(), torch.full((1, 8, 8, 3), 255).byte()])
    found = worst_nearby(module, noise, epsilon, steps, generator())
    assert found.dtype == torch.uint8
    moved = (found.int() - noise.int()).abs()
    assert moved.max() <= epsilon
    if epsilon > 12:
        assert moved.flatten(1).amax(1).min() > 4


def test_more_steps_find_more_confident_images(module: GuardModule) -> None:
    noise = random_images(16, 8, 8, 3)
    values = [confidence(module, worst_nearby(module, noise, 40, steps, generator())) for steps in (1, 4, 16)]
    start = confidence(module, noise)
    assert (values[0] > start + 1e-3).float().mean() > 0.8
    assert start.mean() < values[0].mean() < values[1].mean() < values[2].mean()


def test_the_best_iterate_is_kept(module: GuardModule, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ascent that is turned round gives its start back."""
    noise = random_images(16, 8, 8, 3)
    sign = Tensor.sign
    monkeypatch.setattr(Tensor, "sign", lambda self: -sign(self))
    downhill = worst_nearby(module, noise, 20, 8, generator())
    monkeypatch.setattr(Tensor, "sign", lambda self: 0 * self)
    start = worst_nearby(module, noise, 20, 8, generator())
    assert not start.equal(noise)
    assert (downhill == start).flatten(1).all(-1).float().mean() > 0.8


def test_the_attack_leaves_the_network_as_it_was(module: GuardModule) -> None:
    frozen = module.classifier.body[1].eval()  # a part with a mode of its own
    before = {k: v.clone() for k, v in module.state_dict().items()}
    weight = next(module.parameters())
    weight.grad = torch.ones_like(weight)
    worst_nearby(module, random_images(4, 8, 8, 3), 40, 3, generator())
    assert all(v.equal(before[k]) for k, v in module.state_dict().items())
    assert weight.grad.eq(1).all()
    assert [p.grad for p in module.parameters()].count(None) == len(list(module.parameters())) - 1
    assert module.training
    assert module.classifier.body[0].training
    assert not frozen.training


def test_the_attack_is_on_the_network_in_eval_mode(module: GuardModule) -> None:
    noise = random_images(3, 8, 8, 3)
    found = worst_nearby(module.train(), noise, 40, 2, generator())
    assert found.equal(worst_nearby(module.eval(), noise, 40, 2, generator()))
    module.classifier.body[1].running_mean.add_(0.5)
    assert not found.equal(worst_nearby(module, noise, 40, 2, generator()))


def test_the_synthesiser_attacks_the_network_it_was_prepared_with_and_owns_none(
    module: GuardModule, tmp_path: Path
) -> None:
    made = AdversarialNoise(6, 3, epsilon=0.2, steps=8)
    batch = IDBatch(random_images(6, 8, 8, 3), torch.arange(6) % 3)
    with pytest.raises(ConfigError, match="call prepare"):
        made.sample(batch, generator())
    data = load((batch.images.numpy(), batch.labels.numpy()))
    made.prepare(PrepareContext(module, data, tmp_path, 0, torch.device("cpu")))
    assert not list(made.parameters())
    assert not made.state_dict()
    noise = LowPassNoise(6, 3).sample(batch, generator()).data
    found = made.sample(batch, generator())
    assert (found.data.int() - noise.int()).abs().max() <= 51
    assert confidence(module, found.data).mean() > confidence(module, noise).mean() + 0.05
    assert found.parents is not None
    assert (found.parents[3:] == -1).all()
