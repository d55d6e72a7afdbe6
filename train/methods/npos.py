"""NPOS, non-parametric outlier synthesis. Source: Tao, Du, Zhu & Li, ICLR 2023.

    L = compactness + 0.5 dispersion + weight * BCE(MLP(z), in-distribution or not)

The first two terms are the hypersphere head's own. The outliers are noise around the boundary points of a class
(`train.outliers.features.knn_boundary`); the score is the distance to the k-th nearest training feature, and
``score="rejection"`` takes the MLP's logit in its place.

Departures, each on purpose. (1) Features are the head's unit projection z, which is what the score reads: sigma is made
for unit length, and the paper's penultimate features come in any. (2) The selection is the intended one,
not the scrambled one of all public copies. (3) The queue is kept for the whole run; two public copies
empty it every epoch and draw from its zeros. It holds min(queue, smallest class) features; `k` and `select` shrink in
proportion. (4) Each step draws around `classes` random classes: around all, as published, costs time that grows with
their number. (5) The MLP learns on sqrt(D) z, near 1 in each coordinate: on z it stays at the base rate at any rate.
Its own rate is 0.5 at lr 0.1, the official one, whose schedule overwrites the factor of 0.1 that the code sets. (6) A
step sees one view of each image, officially two (``views=2``). As published, candidates leave the sphere on which every
z lies; ``renormalise=True`` puts them back, which made no difference where it was measured (docs/methods/npos.md).
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from guard.errors import ConfigError
from guard.record import changed, option
from guard.scores.rejection import Rejection

from ..losses.rejection_bce import RejectionLoss
from ..outliers.features.knn_boundary import BoundaryOptions, KNNBoundary
from .base import Method, MethodContext, MethodOptions, Stage, register


class NPOSOptions(MethodOptions):
    """The official values for CIFAR-10, but for `start` (a share of the epochs) and `classes`."""

    weight: float = option(0.1, "Weight of the MLP's loss.", common=True, ge=0)
    start: float = option(
        0.4, "Share of the epochs, from 0 to below 1, after which outliers are made.", common=True, ge=0, lt=1
    )
    queue: int = option(1000, "Last features kept per class, at most the images of the smallest class.", ge=2)
    k: int = option(
        300, "Which neighbour measures sparseness, in a queue of that size; its share of a smaller one.", ge=1
    )
    select: int = option(
        200, "Features that count as boundary, in a queue of that size; their share of a smaller one.", ge=1
    )
    pick: int = option(2, "Boundary features per class and step that noise is drawn around.", ge=1)
    n_noise: int = option(600, "Noise vectors per class and step.", ge=1)
    sigma: float = option(0.1, "Noise per coordinate, on features of unit length.", common=True, gt=0)
    keep: int = option(200, "Candidates kept of each boundary feature: those of sparsest surroundings.", ge=1)
    renormalise: bool = option(False, "Put candidates back on the unit sphere, which the official code does not.")
    pooled: bool = option(False, "One bank of the features of all classes in place of one per class.")
    classes: int | None = option(
        2, "Random classes per step that outliers are drawn around; none: all of them.", read_if={"pooled": False}, ge=1
    )
    hidden: int = option(128, "Hidden units of the MLP; score 'rejection' brings its own.", ge=1)
    lr_factor: float = option(5.0, "Learning rate of the MLP as a factor of the network's.", gt=0)
    unit_variance: bool = option(
        True, "Whether the MLP learns on features times the root of their width, near 1 in each coordinate."
    )
    views: Literal[1, 2] = option(
        1, "Views of each image per step, augmented apart: 2 as officially, at twice the time of a step."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for few, many in (("k", "queue"), ("select", "queue"), ("pick", "select"), ("keep", "n_noise")):
            if getattr(self, few) > getattr(self, many):
                raise ValueError(f"{few} must be at most {many}={getattr(self, many)}, got {getattr(self, few)}")
        return self

    def boundary(self, queue: int) -> BoundaryOptions:
        """The sampler's options for a queue of that many features; `k` and `select` keep their share of it."""
        share = queue / self.queue
        names = ("pick", "n_noise", "sigma", "keep", "renormalise")
        k, select = max(2, round(self.k * share)), max(self.pick, round(self.select * share))
        return BoundaryOptions(k=k, select=select, **{name: getattr(self, name) for name in names})


@register
class NPOS(Method):
    """Noise around the sparsest features on a hypersphere, told apart by an MLP (Tao et al., ICLR 2023)."""

    name = "npos"
    Options = NPOSOptions
    head = "hypersphere"
    score = "knn"
    teaches = "rejection"

    def stages(self, context: MethodContext) -> list[Stage]:
        o: NPOSOptions = self.options
        queue = min(o.queue, *context.class_counts)
        if queue < max(2, o.pick):
            raise ConfigError(
                f"method 'npos' picks {o.pick} boundary points per class (pick=), and the smallest class has {queue} "
                "training images; lower pick, or give more images"
            )
        synthesiser = KNNBoundary(
            context.num_classes,
            context.num_features,
            queue=queue,
            options=o.boundary(queue),
            classes=o.classes,
            pooled=o.pooled,
        )
        network = self._network(context)
        losses = (RejectionLoss(network, o.weight, o.lr_factor, unit_variance=o.unit_variance),)
        start = context.epoch_at(o.start)
        return [Stage("classifier", context.epochs, context.lr, synthesiser, losses, start_epoch=start, views=o.views)]

    def _network(self, context: MethodContext) -> Rejection:
        hidden = self.options.hidden
        for score in context.score.parts():
            if isinstance(score, Rejection):
                if score.uses_map:
                    raise ConfigError("method 'npos' makes features, not maps: score 'rejection' needs tap='pooled'")
                if "hidden" in changed(self.options):
                    raise ConfigError(
                        f"method 'npos' does not read hidden={hidden} with score 'rejection', whose MLP it trains: "
                        f"give score_options={{'hidden': {hidden}}}"
                    )
                hidden = score.options.hidden
        network = Rejection(hidden=hidden)
        network.build(context.num_features)
        return network
