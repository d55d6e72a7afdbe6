"""ODIN inside the graph module, against pytorch-ood and against gradients worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import guard
from guard.detector import Guard
from guard.errors import ConfigError, ModelError
from guard.graph.module import GuardModule
from guard.graph.outputs import HookedClassifier
from guard.manifest import Manifest, Normalisation, Preprocess
from guard.runtimes.torch_module import TorchModule
from guard.scores import create_score
from guard.scores.odin import ascent
from train.features.extract import hook_features

NORMALISATION = Normalisation(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


def network() -> nn.Module:
    """A small one whose batch norm has seen something."""
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.Tanh(), nn.Conv2d(8, 8, 3, 2), nn.Flatten(), nn.Linear(72, 5)
    )
    made(torch.randn(64, 3, 16, 16))
    return made.eval()


def odin(model: nn.Module, **options: float) -> GuardModule:
    classifier: HookedClassifier = hook_features(model, torch.randn(2, 3, 16, 16))
    return GuardModule(classifier, create_score("odin", **options), NORMALISATION).eval()


def scores(module: GuardModule, images: np.ndarray) -> Tensor:
    return module(torch.from_numpy(images), torch.tensor(0.0))[2]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)


class TestMaths:
    def test_the_step_of_a_linear_classifier_is_known(self) -> None:
        """f = W x + b: the gradient of CE(f / T) is W'(softmax(f / T) - onehot) / T."""
        g = torch.Generator().manual_seed(0)
        weight, x = torch.randn(4, 6, generator=g).double(), torch.randn(9, 6, generator=g).double()
        x.requires_grad_()
        found = ascent(x, x @ weight.T, 1000.0)
        f = (x @ weight.T).detach()
        gradient = ((f / 1000).softmax(-1) - torch.eye(4)[f.argmax(-1)].double()) @ weight / 1000
        assert torch.equal(found, gradient.sign())

    @pytest.mark.parametrize("temperature", [1.0, 1000.0])
    @pytest.mark.parametrize("eps", [0.0, 0.0014, 0.02])
    def test_it_is_pytorch_oods_with_their_norm_std(self, images: np.ndarray, eps: float, temperature: float) -> None:
        theirs_class = pytest.importorskip("pytorch_ood.detector").ODIN
        model = network()
        module = odin(model, eps=eps, temperature=temperature)
        theirs = theirs_class(model, eps=eps, temperature=temperature, norm_std=list(NORMALISATION.std))
        expected = theirs.predict(module.normalise(torch.from_numpy(images)))
        torch.testing.assert_close(scores(module, images), expected, rtol=1e-5, atol=1e-7)

    def test_without_a_step_it_is_the_softmax_at_that_temperature(self, images: np.ndarray) -> None:
        model = network()
        module = odin(model, eps=0, temperature=1000)
        with torch.no_grad():
            logits = model(module.normalise(torch.from_numpy(images)))
        torch.testing.assert_close(scores(module, images), -(logits / 1000).softmax(-1).amax(-1))

    def test_the_step_is_eps_of_a_pixels_range_towards_the_class(self, images: np.ndarray) -> None:
        module = odin(network(), eps=0.01)
        x = module.normalise(torch.from_numpy(images))
        outputs, moved = module.score.perturb(x, module.look, 255 * module.scale)
        std = torch.tensor(NORMALISATION.std).view(1, 3, 1, 1)
        step = ((moved - x) * std).abs()[:, :, :15, :15]  # no convolution reads the last row and column
        torch.testing.assert_close(step, torch.full_like(step, 0.01), rtol=1e-3, atol=1e-6)
        label = outputs.logits.argmax(-1, keepdim=True)
        before, after = (f.softmax(-1).gather(1, label) for f in (outputs.logits, module.look(moved).logits))
        assert after.gt(before).all()

    @pytest.mark.parametrize("wrong", [{"eps": -0.1}, {"temperature": 0}])
    def test_impossible_options_are_refused(self, wrong: dict[str, float]) -> None:
        with pytest.raises(ConfigError, match="score 'odin' option"):
            create_score("odin", **wrong)


class TestInTheModule:
    def test_labels_and_probabilities_are_of_the_images_as_they_came(self, images: np.ndarray) -> None:
        model = network()
        module = odin(model, eps=0.5)
        label, probabilities, _, _ = module(torch.from_numpy(images), torch.tensor(0.0))
        with torch.no_grad():
            logits = model(module.normalise(torch.from_numpy(images)))
        torch.testing.assert_close(probabilities, logits.softmax(-1))
        assert torch.equal(label, logits.argmax(-1))

    @pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
    def test_it_works_in_every_gradient_mode_and_leaves_none_behind(self, images: np.ndarray, mode: type) -> None:
        model = network()
        module = odin(model)
        module.requires_grad_(True)  # as after guard.train
        expected = scores(module, images).detach()
        with mode():
            found = module(torch.from_numpy(images), torch.tensor(0.0))
        torch.testing.assert_close(found[2].detach(), expected, rtol=0, atol=0)
        assert all(parameter.grad is None for parameter in module.parameters())

    def test_the_batch_an_image_comes_in_does_not_matter(self, images: np.ndarray) -> None:
        module = odin(network(), temperature=1.0)
        single = torch.cat([scores(module, images[i : i + 1]) for i in range(len(images))])
        torch.testing.assert_close(single, scores(module, images), rtol=1e-4, atol=1e-6)

    def test_a_guard_predicts_calibrates_and_evaluates(self, images: np.ndarray) -> None:
        module = odin(network())
        preprocess = Preprocess(height=16, width=16)
        manifest = Manifest(
            class_names=tuple("abcde"),
            preprocess=preprocess,
            normalisation=NORMALISATION,
            method="fit",
            backbone="custom",
            head="linear",
            score="odin",
        )
        g = Guard(manifest, TorchModule(module, preprocess, "cpu")).calibrate(images, alpha=0.1)
        verdicts = g.predict(images)
        np.testing.assert_allclose(verdicts.ood_score, scores(module, images).detach(), rtol=1e-5)
        assert verdicts.is_ood.sum() <= 4
        grey = np.full_like(images, 127)
        report = guard.evaluate(g, id=(images, np.arange(40) % 5), ood={"grey": grey})
        assert report.ood[0].flagged == pytest.approx(g.predict(grey).is_ood.mean())

    def test_a_classifier_without_gradients_is_refused(self) -> None:
        class Frozen(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = network()

            def forward(self, x: Tensor) -> Tensor:
                with torch.no_grad():
                    return self.inner(x)

        module = odin(Frozen())
        with pytest.raises(ModelError, match=r"'odin' needs the gradient.*the nearest score is msp with temperature"):
            scores(module, np.zeros((2, 16, 16, 3), np.uint8))
