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
    multilayer_mahalanobis
                     the same of several layers, side by side     features, intermediate maps; fitted
    she              - <h, m_c>, c = argmax f                     both; fitted
    residual         ||R'(h - u)||                                features, last layer; fitted
    fdbd             - distance to the boundaries / |h - m|       both, last layer; fitted
    nci              - <w_y, h - m> / |h - m| - alpha |h|_1       both, last layer; fitted
    knn              squared distance to the k-th neighbour       features; fitted
    vim              alpha ||R'(h - u)|| - logsumexp(f)           both; fitted
    react            energy of min(h, t)                          features, last layer; fitted
    dice             energy under a sparse last layer             features, last layer; fitted
    ash              energy of shaped features                    features, last layer
    scale            energy of scaled features                    features, last layer
    nnguide          - L(f) mean_k max <L(f_i) z_i, z>            both; fitted
    gram             Gram statistics out of their range           intermediate maps; fitted
    odin             msp after a step towards the class           logits, input gradient
    combined         sum_j -log p_j(s_j) of other scores          theirs; fitted
    cosine           - max_c cos(h, w_c)                          both; fitted to the last layer
    reject_class     log probability of the extra class           both; of a c_plus_1 head
    rejection        logit of a 2-layer MLP                       features or feature map; trained by rejection
    rotation         cross-entropy of the turns - KL(u || p)      both, of four turns of the image; trained by rotpred
"""

from __future__ import annotations

from .ash import ASH
from .base import Score, create_score, get_score, list_scores, register_score
from .boundary_distance import FDBD, NCI
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
from .multilayer_mahalanobis import MultilayerMahalanobis
from .nnguide import NNGuide
from .odin import ODIN
from .react import ReAct
from .reject_class import RejectClass
from .rejection import Rejection
from .relative_mahalanobis import RelativeMahalanobis
from .rotation import Rotation
from .scale import Scale
from .she import SHE
from .vim import Residual, ViM

__all__ = [
    "ASH",
    "Combined",
    "Cosine",
    "DICE",
    "Energy",
    "EnergyLogistic",
    "Entropy",
    "FDBD",
    "GEN",
    "Gram",
    "KLMatching",
    "KNN",
    "MSP",
    "Mahalanobis",
    "MaxLogit",
    "MultilayerMahalanobis",
    "NCI",
    "NNGuide",
    "ODIN",
    "ReAct",
    "RejectClass",
    "Rejection",
    "RelativeMahalanobis",
    "Residual",
    "Rotation",
    "SHE",
    "Scale",
    "Score",
    "ViM",
    "create_score",
    "get_score",
    "list_scores",
    "register_score",
]
