"""Detectors of pytorch-ood, on the very features and logits that our scores see.

`counterpart` gives the one that computes the same score with the same options, where there is one; docs/scores.md says
where its numbers differ by a factor, or by what its float32 loses. Both rank images alike, so AUROC and FPR95 compare.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guard.errors import MissingExtraError
from guard.graph.outputs import Outputs
from guard.heads import LastLayer
from guard.scores import Score
from guard.scores.vim import default_dim


@dataclass(frozen=True)
class Fitting:
    """What a detector is fitted to: the training images' outputs and labels, and the last linear layer or None."""

    taken: Outputs
    labels: Tensor
    weight: Tensor | None
    bias: Tensor | None

    def head(self, features: Tensor) -> Tensor:
        """Features (N, D) -> logits (N, C)."""
        assert self.weight is not None
        assert self.bias is not None
        return features @ self.weight.T + self.bias


Detector = Callable[[Outputs], np.ndarray]
Builder = Callable[[Fitting, Any], Detector | None]
BUILDERS: dict[str, Builder] = {}
NEED_LAYER = frozenset({"vim", "react", "dice", "ash", "nnguide", "she"})


def detector_of(name: str) -> Any:
    """A class of pytorch_ood.detector.

    Raises:
        MissingExtraError: the library is not installed.
    """
    check_installed()
    import pytorch_ood.detector

    return getattr(pytorch_ood.detector, name)


def check_installed() -> None:
    """Raises: MissingExtraError: pytorch-ood is not installed."""
    try:
        import pytorch_ood.detector  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("pytorch-ood (asked for by compare: pytorch-ood)", "compare") from error


def counterpart(score: Score, taken: Outputs, labels: Tensor, last: LastLayer | None) -> Detector | None:
    """The other library's detector for a score, fitted; None where it has none with these options.

    Args:
        taken, labels: of the images that ours was fitted to.
        last: the classifier's last layer; a scaled or bias-free one is none to the other library.
    """
    linear = last is not None and last.bias is not None and last.scale is None and last.reject is None
    fitting = Fitting(taken, labels, None, None)
    if linear and last is not None and last.bias is not None:
        fitting = Fitting(taken, labels, last.weight.detach().cpu().float(), last.bias.detach().cpu().float())
    if score.name not in BUILDERS or (score.name in NEED_LAYER and fitting.weight is None):
        return None
    with torch.no_grad():
        built = BUILDERS[score.name](fitting, score.options)
    return None if built is None else _without_gradient(built)


def _without_gradient(detector: Detector) -> Detector:
    def scores(outputs: Outputs) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(detector(outputs), np.float64)

    return scores


def _builds(name: str) -> Callable[[Builder], Builder]:
    def listed(build: Builder) -> Builder:
        BUILDERS[name] = build
        return build

    return listed


def _of_features(detector: Any, fit: Fitting) -> Detector:
    detector.fit_features(fit.taken.features, fit.labels)
    return lambda x: detector.predict_features(x.features).double().numpy()


def _of_logits(name: str) -> Builder:
    return lambda fit, options: lambda x: detector_of(name).score(x.logits).double().numpy()


BUILDERS |= {name: _of_logits(kind) for name, kind in {"max_logit": "MaxLogit", "entropy": "Entropy"}.items()}


@_builds("msp")
def _(fit: Fitting, options: Any) -> Detector:
    return lambda x: detector_of("MaxSoftmax").score(x.logits, t=options.temperature).double().numpy()


@_builds("energy")
def _(fit: Fitting, options: Any) -> Detector:
    return lambda x: detector_of("EnergyBased").score(x.logits, t=options.temperature).double().numpy()


@_builds("gen")
def _(fit: Fitting, options: Any) -> Detector:
    return lambda x: detector_of("GEN").score(x.logits, gamma=options.gamma, M=options.m).double().numpy()


@_builds("kl_matching")
def _(fit: Fitting, options: Any) -> Detector:
    detector = detector_of("KLMatching")(None).fit_logits(fit.taken.logits)
    return lambda x: detector.predict_logits(x.logits).detach().double().numpy()


@_builds("mahalanobis")
def _(fit: Fitting, options: Any) -> Detector | None:
    # ours shrinks by 1e-4 of the mean variance by default; theirs not at all, which moves no AUROC by 1e-3
    return None if _normalised(options) else _of_features(detector_of("Mahalanobis")(None), fit)


@_builds("relative_mahalanobis")
def _(fit: Fitting, options: Any) -> Detector | None:
    return None if _normalised(options) else _of_features(detector_of("RMD")(None), fit)


def _normalised(options: Any) -> bool:
    """Whether features are divided by a power of their length, which pytorch-ood's do not do."""
    return bool(getattr(options, "normalise", 0))


@_builds("knn")
def _(fit: Fitting, options: Any) -> Detector:
    return _of_features(detector_of("KNN")(None, k=options.k, normalize=options.normalise), fit)


@_builds("vim")
def _(fit: Fitting, options: Any) -> Detector:
    dim = options.dim or default_dim(fit.taken.features.shape[1])
    return _of_features(detector_of("ViM")(None, d=dim, w=fit.weight, b=fit.bias), fit)


@_builds("she")
def _(fit: Fitting, options: Any) -> Detector:
    return _of_features(detector_of("SHE")(None, fit.head), fit)


@_builds("react")
def _(fit: Fitting, options: Any) -> Detector:
    detector = detector_of("ReAct")(None, fit.head, percentile=options.percentile / 100)
    detector.fit_feature_maps(fit.taken.features, fit.labels)
    return lambda x: detector.predict_feature_maps(x.features).double().numpy()


@_builds("dice")
def _(fit: Fitting, options: Any) -> Detector:
    return _of_features(detector_of("DICE")(None, fit.weight, fit.bias, p=options.percentile / 100), fit)


@_builds("ash")
def _(fit: Fitting, options: Any) -> Detector:
    def head(maps: Tensor) -> Tensor:
        return fit.head(maps.flatten(1))

    variant, percentile = f"ash-{options.variant}", options.percentile / 100
    detector = detector_of("ASH")(None, head, variant=variant, percentile=percentile)
    return lambda x: detector.predict_feature_maps(x.features[:, :, None, None]).double().numpy()


@_builds("nnguide")
def _(fit: Fitting, options: Any) -> Detector | None:
    if options.alpha < 1:  # theirs keeps every training image
        return None
    return _of_features(detector_of("NNGuide")(None, fit.head, k=options.k), fit)
