"""OAL's ablation: an energy over feature dimensions, of features and of projected outliers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from guard.graph.outputs import Outputs
from train.losses.base import Batch
from train.losses.projected_energy import ProjectedEnergyLoss
from train.outliers.base import PrepareContext
from train.outliers.features.outlier_bank import OutlierBank

N, D, W = 12, 3, 5


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(bank: OutlierBank, **options: Any) -> ProjectedEnergyLoss:
    loss = ProjectedEnergyLoss("energy", lambda _: bank, **options)
    module: Any = SimpleNamespace(classifier=SimpleNamespace(num_features=D))
    loss.prepare(PrepareContext(module, None, Path(), 0, torch.device("cpu")))  # type: ignore[arg-type]
    return loss


def batch_of(features: Tensor, labels: Tensor) -> Batch:
    none = Outputs(features[:0], features[:0], None)
    return Batch(Outputs(features, features, None), labels, none, generator=torch.Generator().manual_seed(0))


def test_it_is_the_cross_entropy_of_a_logistic_link_of_both_log_sums() -> None:
    bank = OutlierBank(random(4, W), torch.arange(4), 4)  # one each, so that nothing is left to chance
    loss, features, labels = made(bank), random(N, D, seed=1), torch.arange(N) % 4
    assert loss.projector is not None
    projected = loss.projector(bank.vectors[labels]).detach().double().numpy()
    g_in = np.log(np.exp(features.double().numpy()).sum(-1))
    g_out = np.log(np.exp(projected).sum(-1))
    expected = np.concatenate([np.log1p(np.exp(-2 * g_in)), np.log1p(np.exp(2 * g_out))]).mean()
    assert loss.loss(batch_of(features, labels))["energy"].item() == pytest.approx(2.5 * expected, rel=1e-5)


def test_the_network_the_projector_and_the_link_learn() -> None:
    loss = made(OutlierBank(random(8, W), torch.arange(8) % 4, 4))
    features = random(N, D, seed=1).requires_grad_()
    loss.loss(batch_of(features, torch.arange(N) % 4))["energy"].backward()
    assert features.grad is not None
    assert features.grad.abs().min() > 0
    assert all(p.grad is not None for p in loss.parameters())
