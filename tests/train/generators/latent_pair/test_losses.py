"""The losses against numbers by hand."""

from __future__ import annotations

import numpy as np
import torch

from train.generators.latent_pair.losses import discriminator_loss, feature_distance, non_saturating, r1_penalty


def test_adversarial_losses() -> None:
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0, -2.0])
    fooled = np.mean([-np.log(1 / (1 + np.exp(-v))) for v in fake.tolist()])
    np.testing.assert_allclose(float(non_saturating(fake)), fooled, rtol=1e-6)
    seen = np.mean([-np.log(1 / (1 + np.exp(-v))) for v in real.tolist()])
    told = np.mean([-np.log(1 - 1 / (1 + np.exp(-v))) for v in fake.tolist()])
    np.testing.assert_allclose(float(discriminator_loss(real, fake)), seen + told, rtol=1e-6)


def test_r1_of_a_linear_discriminator_is_half_the_squared_norm_of_its_weights() -> None:
    weight = torch.randn(12, generator=torch.Generator().manual_seed(0), requires_grad=True)
    x = torch.randn(5, 3, 2, 2, requires_grad=True)
    penalty = r1_penalty(x.flatten(1) @ weight, x)
    torch.testing.assert_close(penalty, weight.square().sum() / 2)
    penalty.backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, weight.detach())


def test_the_feature_distance_has_no_scale() -> None:
    a = [torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2)]
    b = [torch.randn_like(m) for m in a]
    assert float(feature_distance(a, a)) == 0
    torch.testing.assert_close(feature_distance(a, b), feature_distance([9 * m for m in a], [9 * m for m in b]))
    by_hand = np.mean([np.abs((p - q).numpy()).sum() / np.abs(p.numpy()).sum() for p, q in zip(a, b, strict=True)])
    np.testing.assert_allclose(float(feature_distance(a, b)), by_hand, rtol=1e-5)
