"""Feature-space outliers off a class's manifold, in a shell around it. Used by GCOS (Karzanov & Detyniecki, ICML 2026).

    x = mu_c +- a v,   v a principal direction of class c outside the first that hold `explained` of its variance
    M_c(x) = (x - mu_c)' S_c^-1 (x - mu_c);   a ~ U(a_low, a_high),   M_c(mu_c + a v) = the class's quantile of M_c

The paper finds a by bisection; with v an eigenvector of S_c, M_c(mu_c + a v) = a^2 / l_v, so a = sqrt(q l_v) outright.
S_c is the class's own covariance, shrunk: l_v = (1 - s) variance along v + s the mean variance of all directions.

The quantiles are of features that S_c has not seen: of each class's queue every `1 / held`-th is held out. All of them
are of training images; what the guard's threshold is calibrated on has no part in this. Directions and shells are found
once an epoch, because eigenvectors would make a step wait for the device; the means are those of the step.
"""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from pydantic import model_validator
from torch import Tensor

from guard.record import Record, option

from ..base import IDBatch, Outliers, Synthesiser
from .feature_queue import FeatureQueue


class ShellOptions(Record):
    """The published shares and quantiles; the rest is ours."""

    queue: int = option(1000, "Last features kept per class, at most the images of the smallest class.", ge=4)
    held: float = option(
        0.2, "Share of the queue, in (0, 0.5], that gives the quantiles and not the covariance.", gt=0, le=0.5
    )
    explained: float = option(
        0.9, "Share of a class's variance, in (0, 1), whose principal directions are left out.", gt=0, lt=1
    )
    low: float = option(0.95, "Quantile of the class's Mahalanobis distance where the shell begins.", ge=0, le=1)
    high: float = option(0.99, "Quantile of the class's Mahalanobis distance where the shell ends.", ge=0, le=1)
    shrink: float = option(
        0.05,
        "Share of the mean variance in every direction's, in (0, 1]: few features span few directions.",
        gt=0,
        le=1,
    )
    directions: int = option(64, "Directions drawn per class and epoch.", ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}; swap the two")
        return self


def shell(fitted: Tensor, held: Tensor, o: ShellOptions) -> tuple[Tensor, Tensor, Tensor]:
    """Directions (D, D), and for each the ends (D,) and (D,) of its shell; NaN where it is not off the manifold.

    Args:
        fitted: features (n, D) of a class that mean and covariance are taken from.
        held: features (m, D) of it that the quantiles are taken from.
    """
    mean = fitted.mean(0)
    centred = fitted - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(fitted))
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)  # largest variance first
    variances = (1 - o.shrink) * values + o.shrink * values.mean() + torch.finfo(torch.float32).tiny
    distances = ((held - mean) @ vectors).square() @ variances.reciprocal()
    before = values.cumsum(0) - values  # what the directions before each one hold
    off = before >= o.explained * values.sum()
    off[-1] = True
    ends = [(distances.quantile(q) * variances).sqrt().where(off, torch.nan) for q in (o.low, o.high)]
    return vectors.T, ends[0], ends[1]


class ClassShell(Synthesiser):
    """`count` outliers (K, D) per step, of classes at random, on either side of their means."""

    space: ClassVar = "feature"
    vectors: Tensor
    inner: Tensor
    outer: Tensor
    found: Tensor

    def __init__(self, count: int, num_classes: int, num_features: int, options: ShellOptions) -> None:
        super().__init__()
        self.count, self.options = count, options
        self.queue = FeatureQueue(num_classes, num_features, options.queue)
        drawn = (num_classes, options.directions)
        self.register_buffer("vectors", torch.zeros(*drawn, num_features), persistent=False)
        self.register_buffer("inner", torch.zeros(drawn), persistent=False)
        self.register_buffer("outer", torch.zeros(drawn), persistent=False)
        self.register_buffer("found", torch.tensor(False), persistent=False)  # whether the queue was full for them

    def observe(self, features: Tensor, labels: Tensor) -> None:
        self.queue.push(features, labels)

    def ready_after(self, shown: Tensor) -> bool:
        return self.queue.filled_by(shown[:-1].sum(0))  # as the last epoch begins

    def start_epoch(self, steps: int, generator: torch.Generator) -> None:
        self.queue.resum()
        self.found = self.queue.full()
        held = spread(self.queue.size, self.options.held).to(self.vectors.device)
        for c, features in enumerate(self.queue.features):
            vectors, inner, outer = shell(features[~held].double(), features[held].double(), self.options)
            first = inner.isnan().sum()  # the directions off the manifold are the last ones
            part = torch.rand(self.options.directions, generator=generator, device=first.device, dtype=torch.float64)
            index = first + (part * (len(vectors) - first)).long()
            self.vectors[c], self.inner[c], self.outer[c] = vectors[index], inner[index], outer[index]

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        device, classes = self.vectors.device, len(self.vectors)
        c = torch.randint(classes, (self.count,), generator=generator, device=device)
        v = torch.randint(self.options.directions, (self.count,), generator=generator, device=device)
        part, side = torch.rand(2, self.count, generator=generator, device=device)
        length = torch.lerp(self.inner[c, v], self.outer[c, v], part) * torch.where(side < 0.5, -1.0, 1.0)
        counts = self.queue.counts().double().clamp_min(1)
        means = (self.queue.class_sum / counts[:, None]).float()
        data = means[c] + length[:, None] * self.vectors[c, v]
        return Outliers(data, "off a class's manifold, in its shell", ready=self.found, parents=c[:, None])


def spread(size: int, share: float) -> Tensor:
    """bool (size,): `share` of the places, evenly: the first one, and each where the count of share * place goes up."""
    place = torch.arange(size, dtype=torch.float64) * share + 1e-9
    return place.floor().diff(prepend=torch.tensor([-1.0], dtype=torch.float64)) > 0
