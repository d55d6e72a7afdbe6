"""The last Q features of each class, with exact running sums, without a host synchronisation.

A ring buffer per class. What a batch adds and pushes out also changes two sums in float64, so means and the shared
scatter cost O(N D^2) per batch instead of O(C Q D^2) per use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class FeatureQueue(nn.Module):
    """Ring buffer (C, Q, D) with counts; all buffers, so a checkpoint restores it.

    Args:
        size: Q, or the features kept of each class (C,), of which the largest is Q; places beyond a class's own stay 0.
    """

    sizes: Tensor
    features: Tensor
    pushed: Tensor
    class_sum: Tensor
    second_moment: Tensor

    def __init__(self, num_classes: int, num_features: int, size: int | Sequence[int]) -> None:
        super().__init__()
        sizes = torch.tensor([size] * num_classes if isinstance(size, int) else size)
        self.size = int(sizes.max())
        self.register_buffer("sizes", sizes, persistent=False)
        self.register_buffer("features", torch.zeros(num_classes, self.size, num_features))
        self.register_buffer("pushed", torch.zeros(num_classes, dtype=torch.int64))
        self.register_buffer("class_sum", torch.zeros(num_classes, num_features, dtype=torch.float64))
        self.register_buffer("second_moment", torch.zeros(num_features, num_features, dtype=torch.float64))

    def push(self, features: Tensor, labels: Tensor) -> None:
        """Add features (N, D) of classes labels (N,), oldest first."""
        features = features.detach().float()
        same = labels[:, None] == labels[None, :]
        rank = same.tril(-1).sum(1)  # earlier items of the same class in this batch
        slot = (self.pushed[labels] + rank) % self.sizes[labels]
        place = torch.arange(len(labels), device=labels.device)
        last = torch.where(same & (slot[:, None] == slot), place, -1).amax(1)  # of the batch in the same slot: it stays
        stays = (last == place)[:, None]
        old = self.features[labels, slot].double() * stays  # zeros while the ring is not full
        new = features.double() * stays
        self.features[labels, slot] = features[last]
        self.class_sum.index_add_(0, labels, new - old)
        self.second_moment += new.T @ new - old.T @ old
        self.pushed.index_add_(0, labels, torch.ones_like(labels))

    def counts(self) -> Tensor:
        """(C,) features held per class."""
        return torch.minimum(self.pushed, self.sizes)

    def full(self) -> Tensor:
        """Scalar bool tensor: every class has all that are kept of it."""
        return (self.pushed >= self.sizes).all()

    def filled_by(self, shown: Tensor) -> bool:
        """Whether it is full once so many features (C,) of each class were pushed."""
        return bool((shown >= self.sizes.to(shown.device)).all())

    def resum(self) -> None:
        """Recompute the sums from the buffer (float64 drift is far below 1e-9 per epoch; called once per epoch)."""
        x = self.features.double()
        self.class_sum.copy_(x.sum(1))
        flat = x.flatten(0, 1)
        self.second_moment.copy_(flat.T @ flat)

    def gaussians(self) -> tuple[Tensor, Tensor]:
        """Class means (C, D) and the shared biased covariance (D, D), both float64.

        Sigma = (1/n) (sum of x x' - sum_c n_c mu_c mu_c').
        """
        counts = self.counts().double()
        means = self.class_sum / counts.clamp_min(1)[:, None]
        scatter = self.second_moment - (means * counts[:, None]).T @ means
        return means, scatter / counts.sum().clamp_min(1)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        saved = state_dict[f"{prefix}features"]
        if saved.shape[1] < self.size:  # earlier versions kept as many of each class as of the smallest
            self.features = self.features.new_zeros(saved.shape)
            self.size = saved.shape[1]
            self.sizes.fill_(self.size)
        super()._load_from_state_dict(state_dict, prefix, *rest)
