"""The rejection network: z -> W2 relu(W1 z + b1) + b2, > 0 = outlier. Source: DMR (methods.md A4).

No classifier: it stands beside one, on its pooled features or its flattened last feature map. The score "rejection"
carries it.
"""

from __future__ import annotations

from torch import nn


class RejectionMLP(nn.Sequential):
    """(N, width) -> (N, 1), with torch's default initialisation."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 1))
