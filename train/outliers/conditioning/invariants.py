"""Class-conditional invariants of embeddings: what a cVPN makes nearly zero on them. Source: NCIS, Doorenbos
et al. 2024.

    paper   min sum_i |g(e_i, y_i)|^2,   g the first K coordinates of f (`cvpn`)
    code    per batch two steps of one Adam: mean square of g, the last K coordinates; then, with g set to zero, mean
            squared error of the reconstruction f^-1([v, 0], y) of e. Both means are over all numbers of the batch

With ``kind="linear"`` there is no f: the Gaussians are fitted to the embeddings themselves, whose directions of little
variance are their linear invariants (the paper's Table 3).

K comes from a principal component analysis of each class (`count_invariants`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol

import torch
from torch import Tensor

from guard.record import Record, option

from ...cache.keyed import digest
from ...cache.trained_network import Schedule, train_kept
from ...engine.epochs import epochs_showing
from ...engine.seeds import seeded
from ..base import IDBatch, Learner, PrepareContext
from .cvpn import CVPN, Variant

SHARE = {"paper": 0.02, "code": 0.05}
BATCH = 64
MOST_EPOCHS = 200
SHOWN = 2_000_000  # embeddings that it sees at most by default
KEPT_EVERY = 200  # steps, at least
LAST_LR = 0.1  # of the first


class InvariantOptions(Record):
    """Learning of the invariants; their form is the method's `variant`."""

    kind: Literal["cvpn", "linear"] = option(
        "cvpn",
        "'cvpn', learned by a volume-preserving network, or 'linear': Gaussians of the embeddings themselves, which "
        "the paper compares with.",
    )
    share: float | None = option(
        None,
        "Share of a class's variance in the directions of the invariants, 0 to 1; default 0.02, or 0.05 for "
        "variant 'code'.",
        gt=0,
        lt=1,
        read_if={"kind": "cvpn"},
    )
    epochs: int | None = option(
        None,
        "Passes over the embeddings; default 200, fewer where these would show more than 2,000,000 embeddings.",
        ge=1,
        read_if={"kind": "cvpn"},
    )
    lr: float = option(
        1e-3,
        "Learning rate of Adam, which falls linearly to a tenth (published: 1e-4, for 150,000 steps).",
        gt=0,
        read_if={"kind": "cvpn"},
    )
    standardise: bool = option(
        True,
        "Whether the network sees embeddings in units of their root mean square (published: no).",
        read_if={"kind": "cvpn"},
    )


class VolumePreserving(Protocol):
    """f(x, y) of vectors (N, E) and classes (N,), and its inverse."""

    def __call__(self, x: Tensor, classes: Tensor) -> Tensor: ...

    def inverse(self, v: Tensor, classes: Tensor) -> Tensor:
        """v (N, E) -> x with f(x, y) = v."""
        ...


class Linear:
    """f(x, y) = x."""

    def __call__(self, x: Tensor, classes: Tensor) -> Tensor:
        return x

    def inverse(self, v: Tensor, classes: Tensor) -> Tensor:
        """v itself."""
        return v


def count_invariants(x: Tensor, classes: Tensor, share: float, variant: Variant = "paper") -> int:
    """K: the mean over classes, truncated, of a number of principal components of small variance; 1 <= K < E.

    Args:
        x: (N, E). classes: int64 (N,). Classes with fewer than two rows, or without any variance, are left out.
        share: p.
        variant: "paper": as many trailing components as together have less than p of the variance. "code": one more,
            the component that crosses p.
    """
    width, counts = x.shape[1], []
    for c in classes.unique():
        mine = x[classes == c].double()
        centred = mine - mine.mean(0)
        variances = torch.linalg.eigvalsh(centred.mT @ centred).clamp_min(0)  # ascending
        if len(mine) < 2 or variances.sum() <= 0:
            continue
        trailing = int((variances.cumsum(0) < share * variances.sum()).sum())
        counts.append(trailing + (variant == "code"))
    mean = sum(counts) // len(counts) if counts else width - 1
    return min(max(1, mean), width - 1)


class Invariants(Learner):
    """A cVPN and which of its coordinates are the invariants.

    count: K. unit: of the embeddings (`CVPN`); losses are in it.
    """

    def __init__(
        self, width: int, classes: int, count: int, variant: Variant = "paper", lr: float = 1e-3, unit: float = 1.0
    ) -> None:
        super().__init__()
        self.cvpn = CVPN(width, classes, variant, unit)
        self.count, self.variant, self.lr = count, variant, lr
        self._optimizers: dict[str, torch.optim.Optimizer] = {}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        if not self._optimizers:
            self._optimizers = {"cvpn": torch.optim.Adam(self.parameters(), lr=self.lr)}
        return self._optimizers

    def forward(self, x: Tensor, classes: Tensor) -> Tensor:
        """g (N, K)."""
        return self.of(self.cvpn(x, classes))

    def of(self, v: Tensor) -> Tensor:
        """The invariants among v = f(x, y) (N, E)."""
        return v[:, : self.count] if self.variant == "paper" else v[:, -self.count :]

    def reconstructed(self, x: Tensor, classes: Tensor) -> Tensor:
        """f^-1 of f(x, y) with the invariants at zero, (N, E)."""
        v = self.cvpn(x, classes)
        zero = torch.zeros_like(self.of(v))
        rest = v[:, self.count :] if self.variant == "paper" else v[:, : -self.count]
        return self.cvpn.inverse(torch.cat([zero, rest] if self.variant == "paper" else [rest, zero], -1), classes)

    def update(self, x: Tensor, classes: Tensor) -> dict[str, Tensor]:
        """One step, or two in variant "code", on embeddings x (N, E); the losses before each."""
        unit = self.cvpn.unit
        squares = (self(x, classes) / unit).square()
        # beside the reconstruction's mean over all numbers, the code's is one too: both steps share one Adam
        small = squares.mean() if self.variant == "code" else squares.sum(-1).mean()
        losses = {"invariants": small.detach()}
        self._step(small)
        if self.variant == "code":
            back = ((self.reconstructed(x, classes) - x) / unit).square().mean()
            losses["reconstruction"] = back.detach()
            self._step(back)
        return losses

    def at(self, progress: float) -> None:
        """Set the learning rate for the share of the training that is done, in [0, 1)."""
        for group in self.optimizers()["cvpn"].param_groups:
            group["lr"] = self.lr * (1 - (1 - LAST_LR) * progress)

    def _step(self, loss: Tensor) -> None:
        optimizer = self.optimizers()["cvpn"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


class Vectors:
    """Embeddings as a `Feed` of batches, `times` over; the images of an `IDBatch` are vectors (N, E) here."""

    def __init__(self, x: Tensor, classes: Tensor, times: int) -> None:
        self.x, self.classes, self.times = x, classes, times

    def __len__(self) -> int:
        return self.times * len(self.x)

    def batches(self, order: Tensor, batch_size: int, device: torch.device) -> Iterator[IDBatch]:
        """Vectors (b, E), classes (b,) and rows (b,) on `device`, in the order asked for."""
        x, classes = self.x.to(device), self.classes.to(device)
        for rows in (order.to(device) % len(x)).split(batch_size):
            yield IDBatch(x[rows], classes[rows], rows)


class _Identity(Record):
    """What decides a trained cVPN."""

    share: float | None
    epochs: int | None
    lr: float
    standardise: bool
    variant: Variant
    count: int
    embeddings: str


def fitted_invariants(
    context: PrepareContext, x: Tensor, classes: Tensor, options: InvariantOptions, variant: Variant = "paper"
) -> Invariants:
    """Invariants of embeddings x (N, E) of classes (N,), kept in the context's folder.

    Training that was killed resumes, and what is finished is read.

    Args:
        variant: "paper" or "code": the loss, which coordinates are the invariants, how K is counted, the network's
            widths, and the default of `share`.
    """
    count = count_invariants(x, classes, options.share or SHARE[variant], variant)
    epochs = options.epochs or min(MOST_EPOCHS, epochs_showing(SHOWN, len(x)))
    schedule = Schedule(epochs=-(-epochs // epochs_showing(KEPT_EVERY * BATCH, len(x))), batch_size=BATCH)
    together = -(-epochs // schedule.epochs)  # passes over few embeddings are short: it is not kept after each
    unit = float(x.square().mean().sqrt()) or 1.0 if options.standardise else 1.0
    with seeded(context.seed):
        network = Invariants(x.shape[1], len(context.data.class_names), count, variant, options.lr, unit)
    network.to(context.device)
    identity = _Identity(
        **options.model_dump(exclude={"kind"}), variant=variant, count=count, embeddings=digest((x, classes))
    )

    def update(batch: IDBatch, generator: torch.Generator) -> dict[str, Tensor]:
        return network.update(batch.images, batch.labels)

    train_kept(context, network, update, "cvpn", identity, schedule, network.at, Vectors(x, classes, together))
    return network
