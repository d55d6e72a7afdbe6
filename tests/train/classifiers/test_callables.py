"""guard.fit on (features, logits): modules, methods and functions, and which of the two is to blame."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

import guard
from guard.errors import ConfigError, ModelError
from tests.conftest import Arrays

OPTIONS: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.2,) * 3, "device": "cpu"}


def body() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())


def head() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(32, 4)


def fit(model: Any, data: Any, **options: Any) -> guard.Guard:
    return guard.fit(model, data, **{"score": "mahalanobis", **OPTIONS, **options})


def test_modules_are_copied_exported_and_saved(four: Arrays, tmp_path: Path) -> None:
    features, logits = body().train(), head()
    g = fit((features, logits), four, score="vim", out=tmp_path / "run")
    assert features.training
    assert all(p.requires_grad for p in features.parameters())
    x = (torch.from_numpy(four[0][:20]).permute(0, 3, 1, 2) / 255 - 0.5) / 0.2
    with torch.no_grad():
        h = features.eval()(x)
        expected = logits(h)
    outputs = g.module.outputs(torch.from_numpy(four[0][:20]))
    torch.testing.assert_close(outputs.features, h)
    torch.testing.assert_close(outputs.logits, expected)
    scores = g.predict(four[0][:20]).ood_score
    exported = guard.load(guard.export(g, tmp_path / "guard.onnx"), device="cpu")
    np.testing.assert_allclose(exported.predict(four[0][:20]).ood_score, scores, rtol=1e-4, atol=1e-4)
    with pytest.raises(ModelError, match=r"was fitted on two callables, .* model=\(features, logits\)\)"):
        guard.load(tmp_path / "run")
    blank = nn.Linear(32, 4)
    loaded = guard.Guard.from_pretrained(tmp_path / "run", device="cpu", model=(body(), blank))
    np.testing.assert_allclose(loaded.predict(four[0][:20]).ood_score, scores, rtol=1e-5)
    again = guard.fit(loaded, four, score="vim", device="cpu", out=tmp_path / "again")
    np.testing.assert_allclose(again.predict(four[0][:20]).ood_score, scores, rtol=1e-4, atol=1e-4)
    guard.Guard.from_pretrained(tmp_path / "again", device="cpu", model=(body(), blank))


def test_functions_are_called_as_they_are(four: Arrays) -> None:
    network, last = body().eval(), head()
    g = fit((lambda x: network[:-1](x), lambda h: h @ last.weight.T[:8]), four)
    outputs = g.module.outputs(torch.from_numpy(four[0][:6]))
    x = g.module.normalise(torch.from_numpy(four[0][:6]))
    torch.testing.assert_close(outputs.features, network[:-1](x).mean((2, 3)), msg="maps are averaged")
    assert all(key.startswith("score.") for key in g.module.state_dict())  # what they close over is the caller's


def test_methods_bring_their_module(four: Arrays, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=4).train()
    large = np.kron(four[0][:100], np.ones((1, 2, 2, 1), np.uint8)), four[1][:100]
    g = fit((model.forward_features, model.get_classifier()), large, out=tmp_path)
    assert model.training
    with torch.no_grad():
        x = g.module.normalise(torch.from_numpy(large[0][:5]))
        torch.testing.assert_close(g.module.outputs(torch.from_numpy(large[0][:5])).logits, model.eval()(x))
    other = timm.create_model("resnet10t", num_classes=4)
    pair = (other.forward_features, other.get_classifier())
    loaded = guard.Guard.from_pretrained(tmp_path, device="cpu", model=pair)
    np.testing.assert_allclose(loaded.predict(large[0][:9]).ood_score, g.predict(large[0][:9]).ood_score, rtol=1e-5)


LAST = head()
HEADS: dict[str, tuple[Callable[[], Any], bool]] = {
    "linear": (head, True),
    "inside a module": (lambda: nn.Sequential(nn.Dropout(0.5), head()), True),
    "hidden layer": (lambda: nn.Sequential(nn.Linear(32, 32), nn.ReLU(), head()), False),
    "scaled": (lambda: nn.Sequential(head(), nn.Softplus()), False),
    "activation before": (lambda: nn.Sequential(nn.Tanh(), head()), False),
    "function": (lambda: lambda h: LAST(h), False),
}


@pytest.mark.parametrize("name", HEADS)
def test_the_last_layer_is_one_whose_numbers_are_the_logits(name: str, four: Arrays) -> None:
    make, known = HEADS[name]
    g = fit((body(), make()), four)
    layer = g.module.classifier.last_layer()
    assert (layer is not None) is known
    if layer is not None:
        outputs = g.module.outputs(torch.from_numpy(four[0][:6]))
        torch.testing.assert_close(outputs.features @ layer.weight.T + layer.bias, outputs.logits)
    else:
        with pytest.raises(ModelError, match="score 'vim' needs the weights of a last linear layer; use 'knn'"):
            fit((body(), make()), four, score="vim")


def test_what_functions_do_not_show_is_said_before_the_data_is_read(four: Arrays) -> None:
    network = body().eval()

    @torch.no_grad()
    def closed(x: Tensor) -> Tensor:
        return network(x)

    with pytest.raises(ModelError, match="score 'gram' needs maps of intermediate layers; "):
        fit((lambda x: network(x), head()), four, score="gram")
    with pytest.raises(ModelError, match="score 'odin' needs the gradient of the input; "):
        fit((closed, head()), four, score="odin")
    for score in ("gram", "odin"):
        assert np.isfinite(fit((body(), head()), four, score=score).threshold)


WRONG: dict[str, tuple[Any, Any, str]] = {
    "numpy": (lambda x: x.mean((2, 3)).numpy(), LAST, r"^features, the first of the two callables, returned a ndarray"),
    "a tuple": (lambda x: (x, x), LAST, r"^features, .* returned a tuple; it must return a torch tensor"),
    "half precision": (lambda x: body().eval()(x).half(), LAST, r"^features, .* returned float16; .*float32 \(\.float"),
    "too many dimensions": (
        lambda x: x[..., None],
        LAST,
        r"^features, .* returned shape \(2, 3, 16, 16, 1\); features \(N",
    ),
    "one row": (lambda x: body().eval()(x)[:1], LAST, r"^features, .* returned shape \(1, 32\) for 2 images"),
    "it breaks": (
        nn.Linear(7, 3),
        LAST,
        r"^features, the first of the two callables, fails on images \(2, 3, 16, 16\): ",
    ),
    "another width": (
        lambda x: x.mean((2, 3)),
        LAST,
        r"^logits, the second .*, fails on features \(2, 3\): RuntimeError",
    ),
    "probabilities": (body(), nn.Sequential(head(), nn.Softmax(-1)), r"^logits, the second .* returns probabilities"),
    "a map as logits": (body(), lambda h: h[..., None], r"^logits, the second .* returned shape \(2, 32, 1\)"),
    "float64": (body(), lambda h: LAST(h).double(), r"^logits, the second .* returned float64"),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_one_to_blame_is_named(name: str, four: Arrays) -> None:
    features, logits, message = WRONG[name]
    with pytest.raises(ModelError, match=message):
        fit((features, logits), four)


def test_other_numbers_of_classes_and_named_layers(four: Arrays) -> None:
    with pytest.raises(ModelError, match="answers 7 classes, the data has 4"):
        fit((body(), nn.Linear(32, 7)), four)
    with pytest.raises(ConfigError, match=r"features='0' names a layer; the first of the two callables gives them"):
        fit((body(), head()), four, features="0")
    with pytest.raises(ModelError, match=r"two callables \(features, logits\), .* got tuple"):
        fit((body(), 3), four)
