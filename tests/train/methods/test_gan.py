"""The GAN beside the classifier: whom its gradients reach, what moves, and what it samples."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from guard.data import load
from guard.errors import ConfigError
from guard.graph.module import GuardModule
from guard.manifest import Normalisation
from guard.scores import create_score
from tests.conftest import Arrays
from train.classifiers.fresh import build_classifier
from train.generators.convolutions import to_signal
from train.generators.dcgan import DCGANOptions
from train.methods.gan import JointGAN, PretrainedGAN, divergence
from train.outliers.base import IDBatch, PrepareContext

SMALL = DCGANOptions(latent=8, width=4)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def context(four: Arrays, tmp_path: Path) -> PrepareContext:
    """The digits 0-3 and a classifier with weights large enough to have opinions."""
    torch.manual_seed(0)
    classifier = build_classifier("wrn10_2", "linear", 4, in_chans=3, image_size=16)
    with torch.no_grad():
        classifier.head.linear.weight.mul_(20)
    module = GuardModule(classifier, create_score("energy"), Normalisation(mean=(0.3,) * 3, std=(0.25,) * 3))
    return PrepareContext(module, load(four), tmp_path, 0, torch.device("cpu"))


def batch_of(context: PrepareContext, n: int = 32) -> IDBatch:
    data = context.data
    assert data.array is not None
    return IDBatch(torch.tensor(data.array[:n]), torch.tensor(data.labels[:n]))


def joint(context: PrepareContext, beta: float = 0.5) -> JointGAN:
    made = JointGAN(10, SMALL, beta=beta)
    made.prepare(context)
    return made


def state(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_the_divergence_is_that_of_the_probabilities_from_uniform(context: PrepareContext) -> None:
    context.module.eval()
    images = batch_of(context, 6).images
    logits = context.module.outputs(images).logits.detach().double()
    expected = 0.0
    for row in logits.softmax(-1).tolist():
        expected += sum(0.25 * math.log(0.25 / p) for p in row) / 6
    assert expected > 0.05
    assert divergence(context.module, to_signal(images)).item() == pytest.approx(
        expected, rel=0.02
    )  # bfloat16 where it is fast


def test_the_classifier_is_left_alone(context: PrepareContext) -> None:
    """No gradient on its parameters (those of its own step stay), no move of its batch-norm statistics or modes."""
    classifier, synthesiser = context.module.classifier, joint(context)
    classifier.train()
    classifier.head.eval()
    for parameter in classifier.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    before = state(classifier)
    modes = [part.training for part in classifier.modules()]
    for seed in range(2):
        synthesiser.learn(batch_of(context), context.module, generator(seed))
    assert all(value.equal(before[name]) for name, value in classifier.state_dict().items())
    assert all(p.grad is not None and p.grad.eq(7).all() for p in classifier.parameters())
    assert [part.training for part in classifier.modules()] == modes
    assert all(p.requires_grad for p in classifier.parameters())


def test_the_classifier_moves_the_generator_and_not_the_discriminator(context: PrepareContext) -> None:
    """The same step with and without the divergence differs in the generator alone."""
    without, with_ = joint(context, 0.0), joint(context, 5.0)
    for synthesiser in (without, with_):
        synthesiser.learn(batch_of(context), context.module, generator())
    assert without.gan is not None
    assert with_.gan is not None
    a, b = without.gan, with_.gan
    assert all(x.equal(y) for x, y in zip(a.discriminator.parameters(), b.discriminator.parameters(), strict=True))
    assert not any(
        x.equal(y) for x, y in zip(a.generator.parameters(), b.generator.parameters(), strict=True) if x.ndim > 1
    )


def test_the_divergence_pulls_the_images_to_where_the_classifier_is_uniform(context: PrepareContext) -> None:
    context.module.eval()
    synthesiser = JointGAN(200, DCGANOptions(latent=8, width=4, lr=1e-3), beta=50.0)
    synthesiser.prepare(context)

    def surprise() -> float:
        made = synthesiser.sample(batch_of(context), generator(9)).data
        return divergence(context.module, to_signal(made)).item()

    for seed in range(10):
        synthesiser.learn(batch_of(context), context.module, generator(seed))
    early = surprise()
    for seed in range(10, 60):
        synthesiser.learn(batch_of(context), context.module, generator(seed))
    assert surprise() < 0.6 * early


def test_it_says_how_it_learns_and_gives_its_optimizers_to_the_checkpoint(context: PrepareContext) -> None:
    synthesiser = joint(context)
    assert set(synthesiser.learn(batch_of(context), context.module, generator())) == {"gan_d", "gan_g", "gan_kl"}
    optimizers = synthesiser.optimizers()
    assert set(optimizers) == {"discriminator", "generator"}
    assert all(optimizers[name] is synthesiser.optimizers()[name] for name in optimizers)
    assert all(group["betas"] == (0.5, 0.999) for o in optimizers.values() for group in o.param_groups)
    assert {name.split(".")[1] for name in synthesiser.state_dict()} == {"generator", "discriminator"}


def test_sampling_changes_nothing_and_has_no_gradient(context: PrepareContext) -> None:
    synthesiser = joint(context)
    synthesiser.learn(batch_of(context), context.module, generator())
    before = state(synthesiser)
    made = synthesiser.sample(batch_of(context), generator(3))
    assert made.data.shape == (10, 16, 16, 3)
    assert made.data.dtype == torch.uint8
    assert len({image.numpy().tobytes() for image in made.data}) == 10
    assert all(value.equal(before[name]) for name, value in synthesiser.state_dict().items())


def test_preparing_twice_keeps_what_was_learned(context: PrepareContext) -> None:
    synthesiser = joint(context)
    synthesiser.learn(batch_of(context), context.module, generator())
    before = state(synthesiser)
    synthesiser.prepare(context)
    assert all(value.equal(before[name]) for name, value in synthesiser.state_dict().items())


def test_the_pretrained_one_needs_no_classifier_and_stays_out_of_checkpoints(four: Arrays, tmp_path: Path) -> None:
    grey = load((np.ascontiguousarray(four[0][:60, :12, :9, :1]), four[1][:60] % 2), channels=1)
    made = []
    for folder in ("a", "b"):
        synthesiser = PretrainedGAN(7, 2, gan={"latent": 4, "width": 2, "epochs": 2})
        with pytest.raises(ConfigError, match="trains first: call prepare before sample"):
            synthesiser.sample(IDBatch(torch.zeros(0), torch.zeros(0)), generator())
        context = PrepareContext(None, grey, tmp_path / folder, 3, torch.device("cpu"))  # type: ignore[arg-type]
        synthesiser.prepare(context)
        assert not synthesiser.state_dict()
        p = grey.preprocess
        made.append(synthesiser.sample(IDBatch(torch.zeros(0), torch.zeros(0)), generator(1)).data)
        assert made[-1].shape == (7, p.height, p.width, 1)
        assert len(made[-1].unique(dim=0)) == 7
    assert made[0].equal(made[1])
