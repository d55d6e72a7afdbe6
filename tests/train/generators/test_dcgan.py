"""DCGAN: its losses by hand, who gets gradients, both learn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from train.generators.convolutions import to_signal
from train.generators.dcgan import DCGANOptions, TrainedDCGANOptions, build_dcgan, trained_generator
from train.outliers.base import PrepareContext

SMALL = DCGANOptions(latent=8, width=4)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def real(context: PrepareContext, n: int = 32) -> Tensor:
    assert context.data.array is not None
    return to_signal(torch.tensor(context.data.array[:n]))


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


@pytest.mark.parametrize("saturating", [False, True])
def test_the_losses_are_those_of_the_paper(context: PrepareContext, saturating: bool) -> None:
    """Recomputed from the logits that the discriminator gave, in the order of the update."""
    gan = build_dcgan(context, SMALL, saturating=saturating)
    shown: list[Tensor] = []
    gan.discriminator.register_forward_hook(lambda _, __, logits: shown.append(logits.detach()))
    losses = gan.update(real(context), generator())
    images, made, again = (logits.double().tolist() for logits in shown)
    loss_d = -sum(map(log_sigmoid, images)) / 32 - sum(log_sigmoid(-x) for x in made) / 32
    loss_g = sum(log_sigmoid(-x) if saturating else -log_sigmoid(x) for x in again) / 32
    assert losses["gan_d"].item() == pytest.approx(loss_d, rel=1e-5)
    assert losses["gan_g"].item() == pytest.approx(loss_g, rel=1e-5)


def test_both_learn_and_leave_no_gradients_behind(context: PrepareContext) -> None:
    gan = build_dcgan(context, SMALL)
    before = {name: p.detach().clone() for name, p in gan.named_parameters()}
    gan.update(real(context), generator())
    for name, parameter in gan.named_parameters():
        assert parameter.grad is None
        assert not parameter.equal(before[name]), name


def test_the_discriminator_learns_to_tell(context: PrepareContext) -> None:
    """Digits against the first images of a generator."""
    gan = build_dcgan(context, SMALL)
    images, rng = real(context), generator()
    first = gan.update(images, rng)["gan_d"]
    for _ in range(30):
        last = gan.update(images, rng)["gan_d"]
    assert first > 1.2  # about 2 log 2 at the start
    assert last < 0.8 * first


def test_the_generators_gradient_points_away_from_the_discriminators_no(context: PrepareContext) -> None:
    """With the discriminator held still, steps of the generator alone raise its logits."""
    gan = build_dcgan(context, DCGANOptions(latent=8, width=4, lr=1e-2))
    for group in gan.optimizers()["discriminator"].param_groups:
        group["lr"] = 0.0
    images = real(context)
    losses = [gan.update(images, generator(1))["gan_g"].item() for _ in range(8)]
    assert losses[-1] < losses[0]


def test_decoding_repeats_and_changes_nothing(context: PrepareContext) -> None:
    gan = build_dcgan(context, SMALL)
    gan.update(real(context), generator())
    state = {name: value.clone() for name, value in gan.state_dict().items()}
    z = gan.generator.latents(6, generator(2))
    made = gan.generator.decode(z)
    assert made.shape == (6, 16, 16, 3)
    assert made.dtype == torch.uint8
    assert gan.eval().generator.decode(z).equal(made)  # the modes do not differ
    assert all(value.equal(state[name]) for name, value in gan.state_dict().items())


def test_latents_of_another_scale_are_the_same_images(context: PrepareContext) -> None:
    """Batch norm divides it out, up to its epsilon: ATOL's wide cube gives ordinary samples."""
    gan = build_dcgan(context, SMALL)
    for _ in range(5):
        gan.update(real(context), generator())
    z = 10 * gan.generator.latents(32, generator(2))
    a, b = (gan.generator.decode(scale * z).float() for scale in (1, 6))
    assert a.std() > 2
    assert (a - b).abs().max() <= 1


def test_few_samples_are_the_first_of_more(context: PrepareContext) -> None:
    gan = build_dcgan(context, SMALL)
    few, more = (gan.generator.sample(n, generator(4)) for n in (2, 16))
    assert few.shape == (2, 16, 16, 3)
    assert few.equal(more[:2])


def test_a_trained_generator_makes_images_nearer_to_the_digits_than_an_untrained_one(context: PrepareContext) -> None:
    """The mean image: an untrained generator is grey everywhere, digits are dark at the border."""
    options = TrainedDCGANOptions(latent=8, width=8, lr=2e-3, epochs=40)
    target = real(context, 400).mean(0)

    def distance(trained: bool) -> float:
        made = trained_generator(context, options) if trained else build_dcgan(context, options).generator
        return float((to_signal(made.sample(200, generator(3))).mean(0) - target).abs().mean())

    assert distance(True) < 0.5 * distance(False)
