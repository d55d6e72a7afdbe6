"""The conditional VAE: its loss by hand, and what it has learned after a short training."""

from __future__ import annotations

import math

import pytest
import torch

from train.generators.convolutions import to_signal
from train.generators.cvae import CVAE, CVAEOptions, cvae_loss, trained_cvae
from train.outliers.base import PrepareContext


def test_the_loss_by_hand() -> None:
    images, decoded = torch.tensor([[[[0.0, 0.5]]], [[[1.0, 0.2]]]]), torch.tensor([[[[0.1, 0.5]]], [[[0.7, 0.6]]]])
    mean, log_variance = torch.tensor([[0.5, -1.0], [0.0, 2.0]]), torch.tensor([[0.0, 1.0], [-1.0, 0.3]])
    losses = cvae_loss(images, decoded, mean, log_variance)
    assert losses["cvae_error"].item() == pytest.approx((0.01 + 0 + 0.09 + 0.16) / 4)
    divergence = 0.0
    for m, v in zip(mean.flatten().tolist(), log_variance.flatten().tolist(), strict=True):
        divergence += (math.exp(v) + m * m - 1 - v) / 2  # KL of N(m, e^v) from N(0, 1)
    assert losses["cvae_kl"].item() == pytest.approx(divergence / 2 / 2, rel=1e-6)  # 2 images of 2 pixels


def test_everything_gets_a_gradient(context: PrepareContext) -> None:
    torch.manual_seed(0)
    cvae = CVAE(CVAEOptions(latent=6, width=4), 4, 3, 16, 16)
    assert context.data.array is not None
    images, labels = to_signal(torch.tensor(context.data.array[:16])), torch.tensor(context.data.labels[:16])
    cvae.update(images, labels, torch.Generator().manual_seed(0))
    for name, parameter in cvae.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_it_reconstructs_better_than_the_class_means(context: PrepareContext) -> None:
    cvae = trained_cvae(context, CVAEOptions(latent=16, width=8, lr=5e-3, epochs=40))
    assert context.data.array is not None
    images, labels = to_signal(torch.tensor(context.data.array)), torch.tensor(context.data.labels)
    with torch.no_grad():
        decoded = cvae(cvae.encode(images)[0], cvae.embedding(labels))
    means = torch.stack([images[labels == c].mean(0) for c in range(4)])
    error = (decoded - images).square().mean()
    assert error < 0.8 * (means[labels] - images).square().mean()


@pytest.mark.parametrize(("height", "width", "channels"), [(8, 8, 1), (20, 12, 3)])
def test_images_of_any_size(height: int, width: int, channels: int) -> None:
    cvae = CVAE(CVAEOptions(latent=5, width=2), 2, channels, height, width).eval()
    mean, log_variance = cvae.encode(torch.rand(3, channels, height, width))
    assert mean.shape == log_variance.shape == (3, 5)
    assert cvae(mean, cvae.embedding(torch.tensor([0, 1, 1]))).shape == (3, channels, height, width)
