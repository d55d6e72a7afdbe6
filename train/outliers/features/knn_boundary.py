"""Outliers around the boundary points of a class, without a model of its density. Source: NPOS (Tao et al., ICLR 2023);
also the first half of Dream-OOD and OAL.

For unit features Z of one class, n x D, and kth(v) = squared distance from v to its K-th nearest row of Z (a row of Z
is its own first neighbour, as in all public code):

    boundary   the `select` rows of largest kth
    centres    `pick` of them, at random
    candidates centre + sigma e_j,  j = 1 .. n_noise,  the same Gaussian e_j for every centre
    outliers   of each centre's own candidates the `keep` of largest kth

``inlier=True`` takes the smallest kth in both places (Dream-ID). All public copies lay the candidates out centre by
centre, read the distances as if they lay noise by noise, and so keep rows whose distance was never looked at (with
``pick=1`` the two agree); here the rows are kept that were meant. Centres, too, are drawn anew in every repeat.

Rows of Z have unit length, so kth needs no distances, only the K-th largest of products. With m the mean of Z,

    kth(v) = |v|^2 + 1 - 2 K-th largest of v.z,    (c + sigma e).z = c.z + sigma e.m + sigma e.(z - m)

The products of the noise are shared by all centres. Subtracting m keeps them small, so the bfloat16 in which CPUs and
GPUs multiply fast costs little: its error in kth is below 0.001 where candidates differ by 0.1.
"""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from pydantic import model_validator
from torch import Tensor

from guard.errors import ConfigError
from guard.heads import unit
from guard.record import Record, option

from ...engine.precision import cpu_has_bf16
from ..base import IDBatch, Outliers, Synthesiser
from .boundary_search import CHUNK, boundary_rows
from .feature_queue import FeatureQueue
from .kth import kth_smallest


def check_at_most(options: Record, *pairs: tuple[str, str]) -> None:
    """Raises ValueError where the first option of a pair is larger than the second."""
    for few, many in pairs:
        if getattr(options, few) > getattr(options, many):
            raise ValueError(f"{few} must be at most {many}={getattr(options, many)}, got {getattr(options, few)}")


class BoundaryOptions(Record):
    """What is drawn around one class (or one pool of features); the defaults are NPOS's for CIFAR."""

    k: int = option(300, "Which neighbour measures sparseness; a row is its own first.", ge=1)
    select: int = option(200, "Rows that count as boundary.", ge=1)
    pick: int = option(2, "Boundary rows per draw that noise is drawn around.", ge=1)
    n_noise: int = option(600, "Noise vectors per draw, shared by its centres.", ge=1)
    sigma: float = option(
        0.1, "Noise per coordinate, on features of unit length: its vectors are about sigma sqrt(D) long.", gt=0
    )
    keep: int = option(200, "Candidates kept per centre.", ge=1)
    repeats: int = option(1, "Draws.", ge=1)
    renormalise: bool = option(False, "Put candidates back on the unit sphere.")
    inlier: bool = option(False, "The densest places in place of the sparsest.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        check_at_most(self, ("pick", "select"), ("keep", "n_noise"))
        return self

    @property
    def outliers(self) -> int:
        """How many one call makes."""
        return self.repeats * self.pick * self.keep


def products(a: Tensor, b: Tensor, precision: torch.dtype) -> Tensor:
    """All products (N, M) of the rows of a (N, D) and b (M, D), multiplied in `precision`."""
    return (a.to(precision) @ b.to(precision).T).float()


def kth_largest(values: Tensor, k: int) -> Tensor:
    """The k-th largest of each row (..., n); `values` may be reordered."""
    return kth_smallest(values, values.shape[-1] - k + 1)


def kth_of_bank(bank: Tensor, k: int, precision: torch.dtype = torch.float32) -> Tensor:
    """kth (M,) of every row of a bank (M, D) of unit rows, in that bank."""
    mean = bank.mean(0)
    centred = bank - mean
    shared = centred @ mean
    found = [
        kth_largest(products(part, centred, precision).add_(shared), k)
        for part in centred.split(max(1, CHUNK // len(bank)))
    ]
    return 2 - 2 * (torch.cat(found) + bank @ mean)


def candidate_kth(
    centres: Tensor, noise: Tensor, bank: Tensor, options: BoundaryOptions, precision: torch.dtype = torch.float32
) -> Tensor:
    """kth (pick, n_noise) of every candidate centre + sigma noise in a bank of unit rows, candidates as they are kept.

    Args:
        centres, noise: (pick, D) unit vectors, (n_noise, D) standard normal.
        bank: (M, D) unit rows.
    """
    mean = bank.mean(0)
    centred = bank - mean
    own = (centres @ centred.T)[:, None]  # (pick, 1, M)
    found = []
    for part in noise.split(max(1, CHUNK // (len(bank) * len(centres)))):
        shared = products(options.sigma * part, centred, precision)  # (part, M)
        found.append(kth_largest(own + shared, options.k))
    candidates = make_candidates(centres, noise, options.sigma)
    length = torch.linalg.vector_norm(candidates, dim=-1)
    product = candidates @ mean + torch.cat(found, 1)
    kth: Tensor = 2 - 2 * product / length if options.renormalise else length.square() + 1 - 2 * product
    return kth


def make_candidates(centres: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """centre_p + sigma noise_j: (pick, n_noise, D)."""
    return centres[:, None] + sigma * noise


def kept_candidates(kth: Tensor, options: BoundaryOptions) -> Tensor:
    """Rows (pick * keep,) of the candidates that are kept, centre by centre, given the kth (pick, n_noise) of all."""
    pick, n_noise = kth.shape
    best = kth.topk(options.keep, dim=1, largest=not options.inlier).indices
    return (best + n_noise * torch.arange(pick, device=kth.device)[:, None]).flatten()


def around(
    features: Tensor,
    boundary: Tensor,
    options: BoundaryOptions,
    generator: torch.Generator,
    precision: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Outliers (options.outliers, D) around some of the rows `boundary` (select,) of unit features (n, D).

    Returns:
        The outliers, and the row (options.outliers,) that each one's centre is.
    """
    made, centre_rows = [], []
    for _ in range(options.repeats):
        order = torch.randperm(len(boundary), generator=generator, device=features.device)
        rows = boundary[order[: options.pick]]
        shape = (options.n_noise, features.shape[1])
        noise = torch.randn(shape, generator=generator, device=features.device)
        candidates = make_candidates(features[rows], noise, options.sigma).flatten(0, 1)
        kept = kept_candidates(candidate_kth(features[rows], noise, features, options, precision), options)
        made.append(unit(candidates[kept]) if options.renormalise else candidates[kept])
        centre_rows.append(rows[kept // options.n_noise])
    return torch.cat(made), torch.cat(centre_rows)


def boundary_outliers(features: Tensor, options: BoundaryOptions, generator: torch.Generator) -> Tensor:
    """Outliers (options.outliers, D) around a bank of features (n, D) of one class, or of a pool; offline.

    The features are taken to unit length. The boundary set is exact (`boundary_search`); memory is a few blocks.

    Args:
        generator: on the features' device.

    Raises:
        ConfigError: there are fewer features than k or select.
        DataError: a feature is not finite.
    """
    features = unit(features.detach().float())
    rows = boundary_rows(features, options.k, options.select, nearest=options.inlier)
    return around(features, rows, options, generator)[0]


class KNNBoundary(Synthesiser):
    """Outliers (K, D) per step around the boundary of the classes' last features.

    Sampled among features of unit length; each outlier is then given its centre's length, so that the space is that of
    the features (under a hypersphere head they are of unit length anyway). The queue is part of the state: it lives
    through epochs and restarts. While it is not full, nothing is ready.

    Args:
        queue: features kept per class.
        options: what is drawn per class; k and select are at most `queue`.
        classes: classes that outliers are drawn around in each step, at random; None: all of them, as published.
        pooled: one bank of all classes' features in place of one per class.

    Raises:
        ConfigError: k or select is more than what is kept.
    """

    space: ClassVar = "feature"

    def __init__(
        self,
        num_classes: int,
        num_features: int,
        *,
        queue: int,
        options: BoundaryOptions,
        classes: int | None = None,
        pooled: bool = False,
    ) -> None:
        super().__init__()
        size = queue * num_classes if pooled else queue
        if max(options.k, options.select) > size:
            raise ConfigError(
                f"k={options.k} and select={options.select} must be at most the {size} features that are kept; "
                "lower them, or raise queue"
            )
        self.queue = FeatureQueue(num_classes, num_features, queue)
        self.options = options
        self.classes = min(classes or num_classes, num_classes)
        self.pooled = pooled

    def observe(self, features: Tensor, labels: Tensor) -> None:
        self.queue.push(features, labels)

    def ready_after(self, shown: Tensor) -> bool:
        return self.queue.filled_by(shown.sum(0))

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        kept, o = self.queue.features, self.options
        parents = None
        if self.pooled:
            kept = kept.flatten(0, 1)[None]
        else:
            drawn = torch.randperm(len(kept), generator=generator, device=kept.device)[: self.classes]
            kept, parents = kept[drawn], drawn.repeat_interleave(o.outliers)[:, None]
        made = torch.cat([self._around(bank, generator) for bank in kept])
        origin = f"noise around the {'densest' if o.inlier else 'sparsest'} features"
        return Outliers(made, origin, ready=self.queue.full(), parents=parents)

    def _around(self, bank: Tensor, generator: torch.Generator) -> Tensor:
        o = self.options
        fast = bank.device.type == "cuda" or cpu_has_bf16()
        precision = torch.bfloat16 if fast else torch.float32
        length = torch.linalg.vector_norm(bank, dim=-1)
        bank = unit(bank)
        boundary = kth_of_bank(bank, o.k, precision).topk(o.select, largest=not o.inlier).indices
        outliers, centres = around(bank, boundary, o, generator, precision)
        made: Tensor = outliers * length[centres, None]
        return made
