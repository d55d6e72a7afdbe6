"""How far features lie from a last layer's decision boundaries.

    D(h) = 1/(C - 1) sum_{c != y} (f_y - f_c) / |w_y - w_c|,   y = argmax f

(f_y - f_c) / |w_y - w_c| is the distance from h to the boundary between the predicted class and c. Source: Liu & Qin,
ICML 2024; a training loss divides by it, too (Ding et al., CVPR 2026).
"""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-12  # relative to the longest weight; classes whose weights are closer have no boundary


def boundary_distance(logits: Tensor, inverse_gaps: Tensor) -> Tensor:
    """D (N,) >= 0 of logits (N, C) and `inverse_gaps` (C, C)."""
    best = logits.max(-1)
    return ((best.values[:, None] - logits) * inverse_gaps.index_select(0, best.indices)).sum(-1)


def inverse_gaps(weight: Tensor) -> Tensor:
    """1 / ((C - 1) |w_i - w_j|) (C, C) of weights (C, D); 0 where i = j, and between classes of equal weights."""
    gaps = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")
    apart = gaps.detach() > TINY * weight.detach().norm(dim=-1).max()
    return torch.where(apart, 1 / torch.where(apart, gaps, torch.ones_like(gaps)), 0.0) / max(1, len(weight) - 1)
