"""Classifier heads (torch): features (N, D) -> logits (N, C). One file per head.

linear        w.h + b                        softmax classifier
cosine        s cos(h, w_c), s learned       scaled cosine classifier
adacos        s cos(h, w_c), s given         AdaCos, fixed or adaptive s
arcface       s cos(h, w_c)                  in training the target's angle + m
cosface       s cos(h, w_c)                  in training the target's cosine - m
sphereface    |h| cos(h, w_c)                in training the target's angle x m
logitnorm     w.h + b                        in training f / (t |f|)
elogitnorm    w.h + b                        in training f / mean distance to the boundaries
t2fnorm       w.h / t + b                    in training h at length 1
standardised  w.z + b                        z is h with mean 0 and deviation sigma over its coordinates
ish           w.h + b                        w learns from each image's largest activations, enlarged
c_plus_1      w.h + b, C of C + 1 classes    one extra class for outliers
mlp           W relu(V h + c) + b            linear behind a hidden layer
mlp_c_plus_1                                 c_plus_1 behind a hidden layer
hypersphere   z . mu_c / t                   z a unit projection, mu_c moving prototypes

Beside them rejection.py, the network of the score "rejection". Each file cites its paper.
"""

from __future__ import annotations

from .adacos import AdaCosHead
from .angular import AngularHead, unit
from .arcface import ArcFaceHead
from .base import Head, LastLayer, create_head, head_class, list_heads, register_head
from .c_plus_1 import CPlus1Head
from .cosface import CosFaceHead
from .cosine import CosineHead
from .hidden_layer import MLPCPlus1Head, MLPHead
from .hypersphere import HypersphereHead
from .ish import ISHHead
from .linear import LinearHead
from .logit_norm import ELogitNormHead, LogitNormHead, T2FNormHead
from .rejection import RejectionMLP
from .sphereface import SphereFaceHead
from .standardised import StandardisedHead

__all__ = [
    "AdaCosHead",
    "AngularHead",
    "ArcFaceHead",
    "CPlus1Head",
    "CosFaceHead",
    "CosineHead",
    "ELogitNormHead",
    "Head",
    "HypersphereHead",
    "ISHHead",
    "LastLayer",
    "LinearHead",
    "LogitNormHead",
    "MLPCPlus1Head",
    "MLPHead",
    "RejectionMLP",
    "SphereFaceHead",
    "StandardisedHead",
    "T2FNormHead",
    "create_head",
    "head_class",
    "list_heads",
    "register_head",
    "unit",
]
