"""guard.fit from outside: what comes back, and what is on disk."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import guard
from guard.errors import ConfigError, ModelError
from guard.scores import get_score, list_scores
from tests.conftest import Arrays
from tests.train.models import Convolutional, Dropped, sequential

Tiny = dict[str, Any]
FITTED = [
    name for name in list_scores() if not get_score(name).trained_by and "extra class" not in get_score(name).needs
]


@pytest.fixture(scope="module")
def large(four: Arrays) -> Arrays:
    """100 images of 32 pixels: what timm's and torchvision's strides need."""
    return np.kron(four[0][:100], np.ones((1, 2, 2, 1), np.uint8)), four[1][:100]


MODELS: dict[str, Callable[[], nn.Module]] = {
    "timm resnet": lambda: timm.create_model("resnet10t", num_classes=4),
    "timm vit": lambda: timm.create_model("vit_tiny_patch16_224", num_classes=4, img_size=32, depth=2),
    "torchvision resnet": lambda: torchvision.models.resnet18(num_classes=4),
    "torchvision mobilenet": lambda: torchvision.models.mobilenet_v3_small(num_classes=4),
    "sequential": sequential,
    "dropout before the last layer": Dropped,
}


def made(name: str) -> nn.Module:
    """The model with weights and batch-norm statistics of no symmetry (an untrained timm ResNet answers alike)."""
    torch.manual_seed(0)
    model = MODELS[name]()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


OPTIONS: Tiny = {"image_size": 32, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25), "device": "cpu"}


def last_linear(model: nn.Module) -> nn.Linear:
    return [m for m in model.modules() if isinstance(m, nn.Linear)][-1]


@pytest.mark.parametrize("name", MODELS)
def test_fit_answers_as_the_model_does_and_leaves_it_as_it_was(name: str, large: Arrays) -> None:
    images, labels = large
    model = made(name).train()
    state = copy.deepcopy(model.state_dict())
    g = guard.fit(model, (images, labels), score="knn", score_options={"k": 5}, **OPTIONS)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert model.training
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())

    # the graph's answers, from the user's own hands: normalise, eval, softmax
    seen = []
    clean = copy.deepcopy(model).eval()
    last_linear(clean).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = (torch.from_numpy(images[:20]).double() / 255 - torch.tensor(OPTIONS["mean"])) / torch.tensor(OPTIONS["std"])
    with torch.inference_mode():
        probabilities = clean(x.permute(0, 3, 1, 2).float()).softmax(-1).numpy()
        outputs = g.module.outputs(torch.from_numpy(images[:20]))
    verdicts = g.predict(images[:20])
    np.testing.assert_allclose(verdicts.probabilities, probabilities, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(outputs.features.numpy(), seen[0].numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("score", FITTED)
def test_every_score_fits_any_model(score: str, four: Arrays) -> None:
    g = guard.fit(sequential(), four, score=score, mean=(0.5,) * 3, std=(0.2,) * 3, device="cpu")
    assert g.manifest.score == score
    assert g.manifest.method == "fit"
    verdicts = g.predict(four[0][g.splits["calibration"]])
    assert verdicts.is_ood.mean() <= 0.05
    assert np.isfinite(verdicts.ood_score).all()


def test_scores_are_fitted_without_the_held_out_images(four: Arrays) -> None:
    g = guard.fit(
        sequential(), four, score="knn", score_options={"k": 1}, device="cpu", mean=(0.5,) * 3, std=(0.2,) * 3
    )
    own = g.predict(four[0][g.splits["train"]]).ood_score
    assert np.abs(own).max() < 1e-5  # each finds itself
    assert len(g.module.score.bank) == len(g.splits["train"])
    assert g.predict(four[0][g.splits["calibration"]]).ood_score.min() > 1e-5


@pytest.mark.parametrize(
    ("features", "width"), [("body.1", 12), ("body", 12), ("classes", 4)], ids=["relu in a block", "block", "class map"]
)
def test_features_can_be_named(features: str, width: int, four: Arrays) -> None:
    options = {"mean": (0.5,) * 3, "std": (0.2,) * 3, "device": "cpu"}
    g = guard.fit(Convolutional(), four, score="mahalanobis", features=features, **options)
    assert g.module.classifier.num_features == width
    again = guard.fit(g, four, score="energy", device="cpu")  # another score: the features are where they were
    assert again.module.classifier.layer == features
    with pytest.raises(ModelError, match="score 'vim' needs the weights of a last linear layer; use 'knn'"):
        guard.fit(Convolutional(), four, score="vim", features=features, **options)


def test_another_score_for_a_trained_guard(trained: Callable[[str], Any], four: Arrays, tmp_path: Path) -> None:
    g = trained("plain")
    before = copy.deepcopy(g.module.state_dict())
    again = guard.fit(g, four, score="mahalanobis", device="cpu")
    np.testing.assert_array_equal(again.predict(four[0][:30]).probabilities, g.predict(four[0][:30]).probabilities)
    assert all(torch.equal(before[key], value) for key, value in g.module.state_dict().items())
    assert (again.manifest.backbone, again.manifest.score) == ("wrn10_2", "mahalanobis")
    folder = g.save_pretrained(tmp_path / "plain")
    from_folder = guard.fit(folder, four, score="mahalanobis", device="cpu", out=tmp_path / "mahalanobis")
    np.testing.assert_array_equal(from_folder.predict(four[0][:30]).ood_score, again.predict(four[0][:30]).ood_score)
    loaded = guard.load(tmp_path / "mahalanobis", device="cpu")
    np.testing.assert_allclose(loaded.predict(four[0][:30]).ood_score, again.predict(four[0][:30]).ood_score, rtol=1e-5)


@pytest.mark.parametrize(
    "options", [{"image_size": 32}, {"mean": (0.5,) * 3}, {"features": "head"}], ids=lambda options: next(iter(options))
)
def test_what_a_guard_has_already_is_not_given_again(
    options: Tiny, trained: Callable[[str], Any], four: Arrays
) -> None:
    with pytest.raises(ConfigError, match=f"has its own {next(iter(options))}; omit it"):
        guard.fit(trained("plain"), four, device="cpu", **options)


def test_a_timm_model_is_rebuilt_by_name(large: Arrays, tmp_path: Path) -> None:
    images, labels = large
    g = guard.fit(made("timm resnet"), (images, labels), score="vim", out=tmp_path, **OPTIONS)
    assert g.manifest.backbone == "resnet10t"
    np.testing.assert_allclose(
        guard.load(tmp_path, device="cpu").predict(images[:9]).ood_score, g.predict(images[:9]).ood_score, rtol=1e-5
    )


def test_a_timm_model_with_arguments_of_its_own_is_not_rebuilt_wrongly(large: Arrays, tmp_path: Path) -> None:
    """The same weights' names and shapes, another activation: rebuilding by name would answer otherwise."""
    images, labels = large
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=4, act_layer=nn.SiLU)
    nn.init.uniform_(model.layer1[0].bn2.weight)
    g = guard.fit(model, (images, labels), out=tmp_path, **OPTIONS)
    with pytest.raises(ModelError, match=r"wraps a model \(ResNet\) that cannot be rebuilt by name; pass it"):
        guard.load(tmp_path, device="cpu")
    loaded = guard.Guard.from_pretrained(
        tmp_path, device="cpu", model=timm.create_model("resnet10t", num_classes=4, act_layer=nn.SiLU)
    )
    np.testing.assert_allclose(loaded.predict(images[:9]).ood_score, g.predict(images[:9]).ood_score, rtol=1e-5)


def test_a_model_of_ones_own_is_loaded_with_its_architecture(four: Arrays, tmp_path: Path) -> None:
    g = guard.fit(Dropped(), four, score="vim", out=tmp_path, mean=(0.5,) * 3, std=(0.2,) * 3, device="cpu")
    with pytest.raises(ModelError, match=r"wraps a model \(Dropped\) that cannot be rebuilt by name; pass it"):
        guard.load(tmp_path)
    blank = Dropped()
    nn.init.zeros_(blank.last.weight)
    loaded = guard.Guard.from_pretrained(tmp_path, device="cpu", model=blank)
    np.testing.assert_array_equal(loaded.predict(four[0][:9]).ood_score, g.predict(four[0][:9]).ood_score)
    assert blank.last.weight.eq(0).all()  # the given model is left alone
    with pytest.raises(
        ModelError, match=r"weights do not fit the architecture 'Sequential': .*[Mm]issing key"
    ) as caught:
        guard.Guard.from_pretrained(tmp_path, device="cpu", model=sequential())
    assert "\n" not in str(caught.value)


def test_class_names_can_be_given(four: Arrays) -> None:
    names = ("zero", "one", "two", "three")
    g = guard.fit(sequential(), four, class_names=names, device="cpu", mean=(0.5,) * 3, std=(0.2,) * 3)
    assert g.predict(four[0][0])[0].class_name in names


def test_a_model_that_is_no_better_than_chance_is_pointed_out(four: Arrays, caplog: pytest.LogCaptureFixture) -> None:
    model = sequential()
    with torch.no_grad():
        model[-1].weight.mul_(1e-3)
        model[-1].bias.copy_(torch.tensor([0.0, 0.0, 0.0, 9.0]))
    with caplog.at_level(logging.WARNING, logger="ood_guard"):
        guard.fit(model, four, device="cpu")
    text = caplog.text
    assert "right on 25.0 % of its own data, near chance" in text
    assert "mean= and std= not given: ImageNet's" in text


class OfUnitSpread(nn.Module):
    """A classifier that divides each image by its standard deviation: 0 / 0 where an image is of one colour."""

    def __init__(self) -> None:
        super().__init__()
        self.model = sequential()

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean((1, 2, 3), keepdim=True)
        return self.model(centred / centred.flatten(1).std(1)[:, None, None, None])


@pytest.mark.parametrize("score", [name for name in FITTED if get_score(name).needs_fit])
def test_an_image_whose_features_are_no_numbers_is_named_before_a_score_is_fitted(score: str, large: Arrays) -> None:
    images, labels = large[0].copy(), large[1]
    images[50] = 7
    options = {**OPTIONS, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    few = {"k": 5} if score in ("knn", "nnguide") else None
    with pytest.raises(ModelError, match=r"NaN .* for 1 of \d+ images; check its weights"):
        guard.fit(OfUnitSpread(), (images, labels), score=score, calibration=large, score_options=few, **options)
