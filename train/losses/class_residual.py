"""What the classes' means leave of features, and how well other features tell it (TGT, 2026).

    m = mean u,   Q an orthonormal basis of the classes' means less m
    r(x) = (I - Q Q') (u(x) - m)

Q Q' is U (U'U + eps I)^-1 U' of the paper's draft as eps goes to 0; the means less m add up to about 0, so U'U alone
has no inverse.
"""

from __future__ import annotations

import torch
from torch import Tensor

RANK = 1e-6  # of the largest singular value: what is below counts as 0
RIDGE = 1e-3  # of the mean square of a feature: where features hardly vary, weights stay small


def class_residual(features: Tensor, labels: Tensor) -> Tensor:
    """r (N, T), float32, of features u (N, T) of images with labels (N,), int64."""
    u = features.double()
    u = u - u.mean(0)
    means = torch.stack([u[labels == c].mean(0) for c in labels.unique()])
    _, sizes, rows = torch.linalg.svd(means, full_matrices=False)
    basis = rows[sizes > RANK * sizes[0]] if sizes[0] > 0 else rows[:0]  # (rank, T)
    left: Tensor = u - u @ basis.T @ basis
    return left.float()


def ridge(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (T, D) and bias (T,), float64, of a ridge regression of targets (N, T) on inputs (N, D)."""
    x, y = inputs.double(), targets.double()
    left, right = x.mean(0), y.mean(0)
    gram = (x - left).T @ (x - left)
    penalty = RIDGE * x.square().sum(0).mean() + torch.finfo(torch.float64).tiny
    weight = torch.linalg.solve(gram + penalty * torch.eye(len(gram), dtype=gram.dtype), (x - left).T @ (y - right)).T
    return weight, right - weight @ left


def ridge_r2(inputs: Tensor, targets: Tensor) -> float:
    """R^2 in (-inf, 1] of a ridge regression of targets (N, T) on inputs (N, D), over all T together.

    It is fitted to every second row and measured on the others.
    """
    weight, bias = ridge(inputs[::2], targets[::2])
    y = targets[1::2].double()
    missed = y - inputs[1::2].double() @ weight.T - bias
    return float(1 - missed.square().sum() / (y - y.mean(0)).square().sum())
