"""The scores by others' hands, for `benchmarks.score_equality`: pytorch-ood's, and the slow ones of tests/references.

Each function below takes what a score is fitted to and returns a function from a set's outputs to its ood_scores (N,).
`check` says which of our scores, with which options, it is compared with, and what was done to the other's numbers
where the two differ by a known transformation (docs/scores.md gives the reasons).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from guard.graph.outputs import Outputs
from guard.heads import LastLayer
from guard.scores import create_score
from train.benchmark.counterparts import counterpart

FORMULA, PYTORCH_OOD = "formula", "pytorch-ood"
VIM_DIM = 64  # half of 128 features: the default of both


class Taken(NamedTuple):
    """What a classifier shows of a set of images: features (N, D), logits (N, C), labels (N,); float32, on the CPU."""

    features: Tensor
    logits: Tensor
    labels: Tensor


class Fitting(NamedTuple):
    """What every score is fitted to: the training images' outputs and the last linear layer, (C, D) and (C,)."""

    taken: Taken
    weight: Tensor
    bias: Tensor

    def head(self, features: Tensor) -> Tensor:
        """Features (N, D) -> logits (N, C)."""
        return features @ self.weight.T + self.bias

    @property
    def layer(self) -> tuple[np.ndarray, np.ndarray, None]:
        """The layer as tests/references/relogits.py takes it."""
        return self.weight.numpy(), self.bias.numpy(), None


Scorer = Callable[[Taken], np.ndarray]


@dataclass(frozen=True)
class Check:
    """Our `score` with `options`, against the numbers of `build`; `correction` is what was done to them."""

    score: str
    against: str
    options: dict[str, Any]
    correction: str
    build: Callable[[Fitting], Scorer]


CHECKS: list[Check] = []


def check(
    score: str, against: str, correction: str = "", **options: Any
) -> Callable[[Callable[[Fitting], Scorer]], Callable[[Fitting], Scorer]]:
    """Decorator: list a comparison."""

    def listed(build: Callable[[Fitting], Scorer]) -> Callable[[Fitting], Scorer]:
        CHECKS.append(Check(score, against, options, correction, build))
        return build

    return listed


@cache
def reference(name: str = "scores") -> ModuleType:
    """tests/references/<name>.py of this checkout; the tests are no package that could be imported by name."""
    path = Path(__file__).parents[1] / "tests" / "references" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"reference_{name}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@check("msp", FORMULA)
def _(fit: Fitting) -> Scorer:
    return lambda x: reference().msp(x.logits.numpy())


@check("max_logit", FORMULA)
def _(fit: Fitting) -> Scorer:
    return lambda x: reference().max_logit(x.logits.numpy())


@check("energy", FORMULA)
def _(fit: Fitting) -> Scorer:
    return lambda x: reference().energy(x.logits.numpy())


@check("entropy", FORMULA)
def _(fit: Fitting) -> Scorer:
    return lambda x: reference().entropy(x.logits.numpy())


@check("gen", FORMULA)
def _(fit: Fitting) -> Scorer:
    return lambda x: reference().gen(x.logits.numpy())


@check("kl_matching", FORMULA)
def _(fit: Fitting) -> Scorer:
    score = reference().KLMatching(fit.taken.logits.numpy())
    return lambda x: score(x.logits.numpy())


@check("mahalanobis", FORMULA)
def _(fit: Fitting) -> Scorer:
    taken = fit.taken
    means, covariance = reference().tied_covariance(taken.features.numpy(), taken.labels.numpy(), 1e-4)
    return lambda x: reference().mahalanobis(x.features.numpy(), means, covariance)


@check("relative_mahalanobis", FORMULA)
def _(fit: Fitting) -> Scorer:
    score = reference().RelativeMahalanobis(fit.taken.features.numpy(), fit.taken.labels.numpy(), 1e-4)
    return lambda x: score(x.features.numpy())


@check("she", FORMULA)
def _(fit: Fitting) -> Scorer:
    score = reference().SHE(*(part.numpy() for part in fit.taken))
    return lambda x: score(x.features.numpy(), x.logits.numpy())


@check("vim", FORMULA, dim=VIM_DIM, sample=50_000)
def _(fit: Fitting) -> Scorer:
    weight, bias, _ = fit.layer
    score = reference().ViM(fit.taken.features.numpy(), fit.taken.logits.numpy(), weight, bias, VIM_DIM)
    return lambda x: score(x.features.numpy(), x.logits.numpy())


@check("cosine", FORMULA)
def _(fit: Fitting) -> Scorer:
    return lambda x: reference().cosine(x.features.numpy(), fit.weight.numpy())


@check("react", FORMULA)
def _(fit: Fitting) -> Scorer:
    slow = reference("relogits")
    threshold = slow.percentile(fit.taken.features.flatten().tolist(), 90.0)

    def score(x: Taken) -> np.ndarray:
        clipped = np.minimum(np.float64(x.features.numpy()), threshold)
        return reference().energy(np.array([slow.logits_of(h, fit.layer) for h in clipped]))

    return score


@check("dice", FORMULA, percentile=90.0)
def _(fit: Fitting) -> Scorer:
    def score(x: Taken) -> np.ndarray:
        logits, _ = reference("relogits").dice(x.features.numpy(), fit.taken.features.numpy(), fit.layer, 90.0)
        return reference().energy(logits)

    return score


@check("ash", FORMULA, variant="b", percentile=65.0)
def _(fit: Fitting) -> Scorer:
    def score(x: Taken) -> np.ndarray:
        slow, width = reference("relogits"), x.features.shape[1]
        k = width - round(0.65 * width)
        return reference().energy(
            np.array([slow.logits_of(slow.ash(h, k, "b"), fit.layer) for h in x.features.numpy()])
        )

    return score


Change = Callable[[np.ndarray, Fitting], np.ndarray]


def _as_it_is(scores: np.ndarray, fit: Fitting) -> np.ndarray:
    return scores


def library(score: str, correction: str = "", change: Change = _as_it_is, **options: Any) -> None:
    """List a comparison with pytorch-ood's detector (`train.benchmark.counterparts`)."""

    def build(fit: Fitting) -> Scorer:
        features, logits, labels = fit.taken
        ours, last = create_score(score, **options), LastLayer(fit.weight, fit.bias)
        detector = counterpart(ours, Outputs(features, logits, None), labels, last)
        if detector is None:
            raise ValueError(f"pytorch-ood has no {score} with {options}")
        return lambda x: change(detector(Outputs(x.features, x.logits, None)), fit)

    CHECKS.append(Check(score, PYTORCH_OOD, options, correction, build))


def _squared(scores: np.ndarray, fit: Fitting) -> np.ndarray:
    return scores**2


def _times(factor: Callable[[Fitting], float]) -> Change:
    return lambda scores, fit: factor(fit) * scores


def _images(fit: Fitting) -> int:
    return len(fit.taken.labels)


for _name in ("msp", "max_logit", "energy", "kl_matching", "she", "react"):
    library(_name)
library("entropy", "none: it clips p at 1e-7")
_mean_over_classes = "times C, for it takes the mean; it also clamps p to [1e-7, 1 - 1e-7]"
library("gen", _mean_over_classes, _times(lambda fit: fit.taken.logits.shape[1]))
_half_under_scatter = "times 2 N: half the distance, under the scatter"
library("mahalanobis", _half_under_scatter, _times(lambda fit: 2 * _images(fit)), shrinkage=0.0)
library("relative_mahalanobis", "times N: distances under the scatters", _times(_images), shrinkage=0.0)
library("knn", "squared: it gives the distance", _squared)
library("knn", "squared: it gives the distance", _squared, k=1, normalise=False)
library("vim", dim=VIM_DIM, sample=50_000)
library("dice", percentile=90.0)
library("ash", "none: it fills zeros where less than k are not 0", variant="b", percentile=65.0)
library("nnguide", alpha=1.0)
