"""OOD scores (torch): (features (N, D), logits (N, C)) -> ood_score (N,), **higher = more out-of-distribution**.

One file per score; pure functions hold the maths, modules hold fitted state in buffers. All but odin export.

    msp              - max softmax(f / T)                         logits
    max_logit        - max logit                                  logits
    energy           - T logsumexp(f / T)                         logits
    entropy          - sum p log p                                logits
    gen              sum (p (1 - p))^gamma, the m largest p       logits
    energy_logistic  - (learned link of the weighted logsumexp)   logits; trained by vos
    kl_matching      min_c KL(p || d_c)                           logits; fitted
    mahalanobis      min_c (h - mu_c)' P (h - mu_c)               features; fitted
    relative_mahalanobis
                     min_c M_c - M_0                              features; fitted
    she              - <h, m_c>, c = argmax f                     both; fitted
    knn              squared distance to the k-th neighbour       features; fitted
    vim              alpha ||R'(h - u)|| - logsumexp(f)           both; fitted
    react            energy of min(h, t)                          features, last layer; fitted
    dice             energy under a sparse last layer             features, last layer; fitted
    ash              energy of shaped features                    features, last layer
    nnguide          - L(f) mean_k max <L(f_i) z_i, z>            both; fitted
    gram             Gram statistics out of their range           intermediate maps; fitted
    odin             msp after a step towards the class           logits, input gradient
    combined         sum_j -log p_j(s_j) of other scores          theirs; fitted
    cosine           - max_c cos(h, w_c)                          both; fitted to the last layer
    reject_class     log probability of the extra class           both; of a c_plus_1 head
    rejection        logit of a 2-layer MLP                       features or feature map; trained by rejection
"""

from __future__ import annotations

import fnmatch
from typing import Any

from ..errors import ConfigError, UnknownNameError
from .ash import ASH
from .base import Score
from .combined import Combined
from .cosine import Cosine
from .dice import DICE
from .energy import Energy
from .energy_logistic import EnergyLogistic
from .entropy import Entropy
from .gen import GEN
from .gram import Gram
from .kl_matching import KLMatching
from .knn import KNN
from .mahalanobis import Mahalanobis
from .max_logit import MaxLogit
from .msp import MSP
from .nnguide import NNGuide
from .odin import ODIN
from .react import ReAct
from .reject_class import RejectClass
from .rejection import Rejection
from .relative_mahalanobis import RelativeMahalanobis
from .she import SHE
from .vim import ViM

_SCORES: dict[str, type[Score]] = {}


def register_score(score: type[Score]) -> type[Score]:
    """Class decorator: make a `Score` subclass available by its `name`."""
    if not (isinstance(score, type) and issubclass(score, Score)):
        raise ConfigError(f"register_score takes a guard.scores.Score subclass, got {score!r}")
    if _SCORES.get(score.name, score).__qualname__ != score.__qualname__:
        raise ConfigError(f"a score named {score.name!r} is registered already; choose another name")
    _SCORES[score.name] = score
    return score


for _score in (
    MSP,
    MaxLogit,
    Energy,
    Entropy,
    GEN,
    EnergyLogistic,
    KLMatching,
    Mahalanobis,
    RelativeMahalanobis,
    SHE,
    KNN,
    ViM,
    Cosine,
    RejectClass,
    Rejection,
    ReAct,
    DICE,
    ASH,
    NNGuide,
    Gram,
    ODIN,
    Combined,
):
    register_score(_score)


def list_scores(pattern: str = "*") -> list[str]:
    """Registered names that match a shell pattern, sorted."""
    return sorted(fnmatch.filter(_SCORES, pattern))


def get_score(name: str) -> type[Score]:
    """The class registered under `name`; unknown names raise `UnknownNameError` with near matches."""
    if name not in _SCORES:
        raise UnknownNameError("score", name, _SCORES)
    return _SCORES[name]


def create_score(name: str, **options: Any) -> Score:
    """An unfitted score; wrong options raise `ConfigError` naming the accepted ones.

    "energy+vim" is short for "combined" with these parts.
    """
    if "+" in name:
        parts = [part.strip() for part in name.split("+")]
        return Combined(parts=parts, **options)
    return get_score(name)(**options)


__all__ = ["Score", "create_score", "get_score", "list_scores", "register_score"]
