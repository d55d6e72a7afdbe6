"""The rejection network: z -> W2 relu(W1 z + b1) + b2. Source: DMR and KIRBY.

One output, > 0 = outlier; or C + 1, the classes' logits and the outliers' after them.

No classifier: it stands beside one, on its pooled features or its flattened last feature map. The score "rejection"
carries it.
"""

from __future__ import annotations

from torch import nn


class RejectionMLP(nn.Sequential):
    """(N, width) -> (N, outputs), with torch's default initialisation."""

    def __init__(self, width: int, hidden: int, outputs: int = 1) -> None:
        super().__init__(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
