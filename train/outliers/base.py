"""What makes outliers: the batch it sees, what it gives, and what it may use beforehand.

Letters: N in-distribution images in a batch, K outliers, C classes, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from guard.graph.module import GuardModule
from guard.record import Record, Registry, parse_options

from ..cache.held import Held
from ..engine.distributed import Processes

if TYPE_CHECKING:
    from guard.data import ImageData


class IDBatch(NamedTuple):
    """The in-distribution batch before the network: uint8 (N, H, W, channels), int64 (N,); rows of the data (N,)."""

    images: Tensor
    labels: Tensor
    rows: Tensor | None = None


class Outliers(NamedTuple):
    """Synthetic outliers.

    data: features (K, D) for space "feature", uint8 (K, H, W, channels) for space "image".
    origin: how they were made, for people.
    ready: scalar bool tensor; False while they are not yet what they should be (a queue is still filling), and then
        the regulariser's terms count nothing in this step. None: always ready.
    parents: int64 (K, P), the in-distribution classes each was made from, -1 where there are fewer than P; or None.
    labels: int64 (K,) where some of them are in-distribution after all (ATOL's auxiliary images): their class, and -1
        for outliers. None: all are outliers.
    rows: int64 (K,), where they come from a fixed pool: their rows in it (`Synthesiser.pool`).
    as_is: bool (K,), where some come from a synthesiser that says `augmented = False`: those that are not to be.
    """

    data: Tensor
    origin: str
    ready: Tensor | None = None
    parents: Tensor | None = None
    labels: Tensor | None = None
    rows: Tensor | None = None
    as_is: Tensor | None = None


@dataclass(frozen=True)
class PrepareContext:
    """What a synthesiser may use before its stage begins.

    Attributes:
        module: the network as the stages before left it; train and eval modes are the caller's to restore.
        data: the in-distribution training images, labelled.
        folder: where whatever takes long is kept (generators, stores), so that a killed run continues; may not exist.
        seed: of everything random.
        resumed: whether the stage goes on from a checkpoint, so that `module` has learned since it began.
    """

    module: GuardModule
    data: ImageData
    folder: Path
    seed: int
    device: torch.device
    resumed: bool = False


class Learner(nn.Module):
    """A part that learns beside the classifier, by optimizers of its own. Checkpoints hold its state and theirs."""

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Name -> optimizer, the same objects at every call; their parameters are not the classifier's optimizer's."""
        return {}

    def check(self, context: PrepareContext) -> None:
        """Called once before the first stage trains anything, with the untrained network: refuse, with a
        `guard.errors.GuardError`, whatever can be known by now to fail in `prepare` or later. Trains nothing.
        """


class Synthesiser(Learner):
    """Makes outliers during training. State that must survive a restart lives in buffers, or in
    `PrepareContext.folder`.

    Attributes:
        space: what is made, features or images.
        augmented: whether its images are shifted and mirrored like the in-distribution ones.
    """

    space: ClassVar[Literal["feature", "image"]]
    augmented: bool = True

    def prepare(self, context: PrepareContext) -> None:
        """Called when its stage begins, and again where a run is resumed in it: train a generator, fill a store.

        Must resume where a killed run stopped, and return at once where everything is there.
        """

    def pool(self) -> ImageData | None:
        """The fixed images that `sample` draws from, once prepared; None where every sample is new."""
        return None

    def observe(self, features: Tensor, labels: Tensor) -> None:
        """See the detached features (N, D) of the current in-distribution batch."""

    def ready_after(self, shown: Tensor) -> bool:
        """Whether `Outliers.ready` is true by the end of some epochs, the first that it sees, as far as can be known:
        by the images of each class in each of them, int64 (epochs, C)."""
        return True

    def start_epoch(self, steps: int, generator: torch.Generator) -> None:
        """Called before each epoch in which `sample` may be called."""

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        """Outliers for this step, in training of the augmented images (docs/augmentations.md says why). No host
        synchronisation: everything stays on the batch's device."""
        raise NotImplementedError(f"{type(self).__name__} must define sample")

    def learn(self, batch: IDBatch, module: GuardModule, generator: torch.Generator) -> dict[str, Tensor]:
        """Its own update, after the classifier's, with its own `optimizers`; scalars to log, by name.

        `batch` is as it came, before augmentation: what is sampled is augmented with the in-distribution images.
        """
        return {}

    def release(self) -> None:
        """Called where nothing will be drawn from it any more: models that it holds (`Held`) are let go."""
        for part in vars(self).values():
            if isinstance(part, Held):
                part.release()


class Changed(Synthesiser):
    """Another synthesiser's outlier images, changed in every step; all else is the other's."""

    space: ClassVar = "image"

    def __init__(self, synthesiser: Synthesiser) -> None:
        super().__init__()
        self.wrapped = synthesiser
        self.augmented = synthesiser.augmented

    def change(self, made: Outliers, batch: IDBatch, generator: torch.Generator) -> Outliers:
        """What becomes of the outliers that were made for this step."""
        raise NotImplementedError(f"{type(self).__name__} must define change")

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        return self.change(self.wrapped.sample(batch, generator), batch, generator)._replace(rows=None)

    def check(self, context: PrepareContext) -> None:
        self.wrapped.check(context)

    def prepare(self, context: PrepareContext) -> None:
        self.wrapped.prepare(context)

    def observe(self, features: Tensor, labels: Tensor) -> None:
        self.wrapped.observe(features, labels)

    def ready_after(self, shown: Tensor) -> bool:
        return self.wrapped.ready_after(shown)

    def start_epoch(self, steps: int, generator: torch.Generator) -> None:
        self.wrapped.start_epoch(steps, generator)

    def learn(self, batch: IDBatch, module: GuardModule, generator: torch.Generator) -> dict[str, Tensor]:
        return self.wrapped.learn(batch, module, generator)

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return self.wrapped.optimizers()

    def release(self) -> None:
        self.wrapped.release()


class Inliers(nn.Module):
    """What a stage shows in place of its in-distribution images: the same ones, treated."""

    def prepare(self, context: PrepareContext) -> None:
        """As `Synthesiser.prepare`, after the stage's synthesiser's."""

    def shown(self, batch: IDBatch, generator: torch.Generator) -> IDBatch:
        """The treated batch, with the labels as they were; `rows` None where images are no longer the data's own."""
        raise NotImplementedError(f"{type(self).__name__} must define shown")


class NoOutliers(Synthesiser):
    """K = 0 outliers in every step: what a stage has that trains without any."""

    space: ClassVar = "image"
    augmented = False

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        return Outliers(batch.images[:0], "none")


class ImageSynthesiser(Synthesiser):
    """Makes outlier images: online (`sample` in every step) or into a store (`train.outliers.store.store`).

    Attributes:
        name: how users call it, as ``outliers=`` and as ``guard synth --method``.
        source: the paper it comes from.
        Options: its options and their defaults.
        count: K, the outliers of one `sample`.
        total: where a store is filled, how many it can hold: of all shards in `prepare`, up to its own in `sample`.
        in_distribution: whether its images are further ones of the classes, and no outliers.
        prepared: whether `prepare` trains something first (a generator), so that it is worth a store.
        divides: whether `prepare` is made of parts that several processes divide among themselves (`train.cache`,
            `train.engine.divided`).
        revision: raised where equal options make other images than before; a store of another one is not continued.
    """

    space: ClassVar = "image"
    name: ClassVar[str]
    source: ClassVar[str] = ""
    Options: ClassVar[type[Record]] = Record
    prepared: ClassVar[bool] = False
    divides: ClassVar[bool] = False
    revision: ClassVar[int] = 1
    in_distribution: ClassVar[bool] = False

    def __init__(self, count: int, num_classes: int, **options: Any) -> None:
        super().__init__()
        self.count = count
        self.total: int | None = None
        self.num_classes = num_classes
        self.options: Any = parse_options(self.Options, options, f"synthesiser {self.name!r}")

    def decoder(self) -> str | None:
        """Which model of the user's own decodes, once prepared: its digest, for the store's card; None: none."""
        return None

    def prepare_together(self, context: PrepareContext, us: Processes) -> None:
        """Called before `prepare` by all of several processes at once (`Processes`), to divide what takes long.

        `prepare` is then called by the first alone, and by the others after it; where it `divides`, it is called here.
        """
        if self.divides:
            self.prepare(context)

    def copies(self, context: PrepareContext) -> int:
        """How many images of a store each one that is generated becomes (by resizing it in several ways)."""
        return 1

    @classmethod
    def needs_classifier(cls, options: Any) -> bool:
        """Whether `prepare` uses a trained classifier (the plain one, as in KIRBY) where these are its `Options`."""
        return False


OutlierMix = Mapping["ImageData | str", float]


SYNTHESISERS: Registry[type[ImageSynthesiser]] = Registry("synthesiser", ImageSynthesiser, "See: guard synthesisers.")
register_synthesiser = SYNTHESISERS.register
list_synthesisers = SYNTHESISERS.names
get_synthesiser = SYNTHESISERS.get


def create_synthesiser(name: str, count: int, num_classes: int, **options: Any) -> ImageSynthesiser:
    """A synthesiser of `count` outliers per call for data of `num_classes` classes.

    Raises:
        UnknownNameError: no such synthesiser; near matches are named.
        ConfigError: an option it does not have, or a value out of range.
    """
    return get_synthesiser(name)(count, num_classes, **options)
