"""The losses of the angular heads, in value and gradient, against acos in float64 and central differences."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from guard.heads import AngularHead, create_head
from guard.heads.adacos import fixed_scale
from guard.heads.arcface import additive_angle
from guard.heads.sphereface import annealing, psi
from tests.references import heads as slow

N, D, C = 7, 4, 3
Slow = Callable[[np.ndarray, np.ndarray, np.ndarray], float]


def arcface(scale: float, margin: float, fallback: str) -> Slow:
    return lambda h, w, y: slow.arcface(slow.angles(h, w - w.mean(0)), y, scale, margin, fallback)


def cosface(scale: float, margin: float) -> Slow:
    return lambda h, w, y: slow.cosface(slow.angles(h, w), y, scale, margin)


def sphereface(margin: float, step: int) -> Slow:
    return lambda h, w, y: slow.sphereface(slow.angles(h, w), np.linalg.norm(h, axis=1), y, margin, step)


CASES: dict[str, tuple[str, dict[str, Any], Slow]] = {
    "arcface": ("arcface", {}, arcface(30, 0.5, "hard")),
    "arcface, easy": ("arcface", {"fallback": "easy", "scale": 8.0}, arcface(8, 0.5, "easy")),
    "arcface, wide": ("arcface", {"margin": 1.4, "scale": 4.0}, arcface(4, 1.4, "hard")),
    "cosface": ("cosface", {}, cosface(30, 0.35)),
    "sphereface": ("sphereface", {}, sphereface(4, 0)),
    "sphereface, 3": ("sphereface", {"margin": 3}, sphereface(3, 0)),
    "sphereface, 1.35": ("sphereface", {"margin": 1.35}, sphereface(1.35, 0)),
    "sphereface, 2.5": ("sphereface", {"margin": 2.5}, sphereface(2.5, 0)),
    "adacos": ("adacos", {}, lambda h, w, y: slow.adacos(slow.angles(h, w), y, math.sqrt(2) * math.log(2))),
}


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Features and weights in float64, some of the images on the far side of their class; labels."""
    g = torch.Generator().manual_seed(1)
    features = torch.randn(N, D, generator=g, dtype=torch.float64) * 2
    weight = torch.randn(C, D, generator=g, dtype=torch.float64)
    labels = torch.arange(N) % C
    features[0] = -3 * weight[0] + 0.3 * features[0]  # beyond pi - m
    features[1] = 2 * weight[1] + 0.3 * features[1]
    return features, weight, labels


def made(name: str, weight: Tensor, **options: Any) -> AngularHead:
    head = create_head(name, D, C, **options).double()
    assert isinstance(head, AngularHead)
    with torch.no_grad():
        head.weight.copy_(weight)
    return head


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient(case: str, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    features, weight, labels = batch
    name, options, reference = CASES[case]
    head, h = made(name, weight, **options), features.clone().requires_grad_()
    loss = head.loss(h, head(h), labels)["ce"]
    loss.backward()
    hs, ws, ys = features.numpy(), weight.numpy(), labels.numpy()
    assert float(loss.detach()) == pytest.approx(reference(hs, ws, ys), rel=1e-8)  # AdaCos's s is float32
    assert h.grad is not None
    assert head.weight.grad is not None
    np.testing.assert_allclose(h.grad, slow.slopes(lambda x: reference(x, ws, ys), hs), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(head.weight.grad, slow.slopes(lambda x: reference(hs, x, ys), ws), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["cosine", "adacos", "arcface", "cosface", "sphereface"])
def test_inference_is_the_cosine_whatever_training_has_done(name: str, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    features, weight, labels = batch
    head = made(name, weight)
    for _ in range(3):
        head.loss(features, head(features), labels)
    rows = weight.numpy() - (weight.numpy().mean(0) if name == "arcface" else 0)
    cosines = np.cos(slow.angles(features.numpy(), rows))
    scale = {"cosine": 16.0, "adacos": fixed_scale(C), "arcface": 30.0, "cosface": 30.0}.get(name)
    s = features.norm(dim=-1, keepdim=True).numpy() if scale is None else scale
    with torch.no_grad():
        logits = head(head.embed(features)).numpy()
    np.testing.assert_allclose(logits, s * cosines, rtol=1e-6)
    np.testing.assert_array_equal(logits.argmax(-1), cosines.argmax(-1))  # the label is the class of smallest angle
    last = head.last_layer()
    rows = last.weight / last.weight.norm(dim=-1, keepdim=True) * (last.scale or 1.0)
    np.testing.assert_allclose(head.embed(features) @ rows.T, logits, rtol=1e-6)  # what scores are told of it


@pytest.mark.parametrize("name", ["cosine", "adacos", "arcface", "cosface", "sphereface"])
@pytest.mark.parametrize("where", [1.0, -1.0], ids=["on its class", "opposite"])
def test_gradients_stay_finite_where_an_angle_is_0_or_pi(name: str, where: float) -> None:
    options = [{}, {"margin": 1.35}] if name == "sphereface" else [{}]
    for given in options:
        head = create_head(name, D, 2, **given)
        features = (where * head.last_layer().weight).repeat(3, 1).requires_grad_()
        head.loss(features, head(features), torch.arange(6) % 2)["ce"].backward()
        assert features.grad.isfinite().all()  # type: ignore[union-attr]
        assert head.weight.grad.isfinite().all()  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["linear", "cosine", "adacos", "arcface", "cosface", "sphereface", "c_plus_1"])
def test_what_autocast_left_in_bfloat16_is_computed_in_float32(name: str) -> None:
    torch.manual_seed(0)
    head = create_head(name, 64, 5)
    features, labels = torch.randn(40, 64).bfloat16(), torch.arange(40) % 5
    logits = head(features.float())
    ours = head.loss(features, logits, labels)["ce"]
    again = copy.deepcopy(head)
    if name == "sphereface":
        again.step.zero_()  # type: ignore[operator]
    assert ours.dtype == torch.float32
    torch.testing.assert_close(again.loss(features.float(), logits, labels)["ce"], ours)
    assert torch.equal(again.loss(features, logits.bfloat16(), labels)["ce"].isfinite(), torch.tensor(True))


# --------------------------------------------------------------------------------------------------------- sphereface


@pytest.mark.parametrize("margin", [1, 2, 3, 4, 5, 1.35, 1.9, 2.5, 4.7])
def test_psi_falls_all_the_way_and_has_no_jumps(margin: float) -> None:
    theta = torch.linspace(0, math.pi, 5001, dtype=torch.float64)
    values = psi(theta.cos(), margin)
    whole = margin == int(margin)  # at 0 and pi the angle is taken of a cosine within 1e-6 of them
    np.testing.assert_allclose(values, [slow.psi(float(t), margin) for t in theta], atol=1e-9 if whole else 0.01)
    assert (values.diff() <= 1e-12).all()
    assert values.diff().abs().max() < 1.01 * margin * math.pi / 5000 + (0 if whole else 0.01)
    assert (float(values[0]), float(values[-1])) == pytest.approx((1, slow.psi(math.pi, margin)), abs=0.01)


def test_the_margin_comes_in_with_the_steps(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    features, weight, labels = batch
    head = made("sphereface", weight)
    theta, norms = slow.angles(features.numpy(), weight.numpy()), features.norm(dim=-1).numpy()
    for step in range(4):
        expected = slow.sphereface(theta, norms, labels.numpy(), 4, step)
        assert float(head.loss(features, head(features), labels)["ce"].detach()) == pytest.approx(expected, rel=1e-9)
    assert int(head.step) == 4  # type: ignore[arg-type]
    later = made("sphereface", weight)
    head.step.fill_(9000)  # type: ignore[operator]
    later.load_state_dict(head.state_dict())
    expected = slow.sphereface(theta, norms, labels.numpy(), 4, 9000)
    assert float(later.loss(features, later(features), labels)["ce"].detach()) == pytest.approx(expected, rel=1e-9)
    assert [float(annealing(torch.tensor(t))) for t in (0, 100, 10**6)] == pytest.approx([1000, 1000 / 13, 5])


# ------------------------------------------------------------------------------------------------------------- adacos


def test_the_scale_adapts_to_every_batch(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    features, weight, labels = batch
    head = made("adacos", weight, adaptive=True)
    scale = fixed_scale(C)
    for step in range(6):
        part = slice(0, N - step % 2)  # even batches, too
        theta = slow.angles(features[part].numpy() + step, weight.numpy())
        scale = slow.adapted_scale(theta, labels[part].numpy(), scale)
        h = (features[part] + step).requires_grad_()
        loss = head.loss(h, head(h), labels[part])["ce"]
        assert float(head.s) == pytest.approx(scale, rel=1e-6)  # type: ignore[arg-type]
        assert float(loss.detach()) == pytest.approx(slow.adacos(theta, labels[part].numpy(), scale), rel=1e-6)
        assert not head.s.requires_grad  # type: ignore[union-attr]


def test_the_scale_of_few_well_separated_classes_stays_positive() -> None:
    for classes in (2, 3):
        assert fixed_scale(classes) == pytest.approx(math.sqrt(2) * math.log(2))
        head = create_head("adacos", classes, classes, adaptive=True)
        with torch.no_grad():
            head.weight.copy_(torch.eye(classes) - 1 / classes)  # type: ignore[union-attr, operator]
        features = head.weight.detach().repeat(4, 1)  # type: ignore[union-attr, operator]
        for _ in range(50):
            head.loss(features, head(features), torch.arange(4 * classes) % classes)
        assert float(head.s) == pytest.approx(math.log(2), abs=1e-3)  # type: ignore[arg-type]


def test_a_later_scale_does_not_spoil_the_gradient_of_logits_made_before(batch: tuple[Tensor, ...]) -> None:
    """As in a step with outliers: their logits come first, then the head's loss moves s."""
    features, weight, labels = batch
    head = made("adacos", weight, adaptive=True)
    outliers = head(features + 1)
    (head.loss(features, head(features), labels)["ce"] + outliers.logsumexp(-1).mean()).backward()
    assert head.weight.grad is not None


# ------------------------------------------------------------------------------------------------------------ arcface


def test_the_hard_fallback_keeps_falling_and_the_easy_one_has_no_margin() -> None:
    cosines = torch.linspace(-1, 1, 2001, dtype=torch.float64)
    hard = additive_angle(cosines, 0.5, "hard")
    beyond = cosines < -math.cos(0.5)
    assert (hard[beyond].diff() > 0).all()
    assert (hard[~beyond][:-1].diff() > 0).all()
    easy = additive_angle(cosines, 0.5, "easy")
    assert torch.equal(easy[cosines < 0], cosines[cosines < 0])
    torch.testing.assert_close(easy[cosines > 0.01], hard[cosines > 0.01])


def test_no_image_is_opposite_to_all_classes() -> None:
    """Where a margin on the angle costs least; with free weights training went there."""
    torch.manual_seed(0)
    head = create_head("arcface", 16, 10)
    with torch.no_grad():
        head.weight.sub_(5.0)  # type: ignore[operator, union-attr]
        assert head(head.embed(torch.rand(200, 16) + 1)).amax(-1).min() > 0


# ---------------------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("name", ["cosine", "adacos", "arcface", "cosface", "sphereface"])
def test_training_computes_cosines_in_float32_under_autocast(name: str) -> None:
    """In the logits, which losses on outliers read, and in the head's own loss."""
    torch.manual_seed(0)
    head = create_head(name, 64, 10)
    features, labels = head.embed(torch.randn(8, 64).relu()), torch.arange(8)
    again = copy.deepcopy(head)  # a step moves what some have
    logits = head(features)
    expected = head.loss(features, logits, labels)["ce"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = again(features)
        found = again.loss(features, under, labels)["ce"]
    assert under.dtype == torch.float32
    assert under.equal(logits)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
