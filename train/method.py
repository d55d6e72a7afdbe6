"""A method = synthesiser + regulariser + head + score + schedule; the protocols, with shapes (design, section 4.4).

Letters: N in-distribution images in a batch, K outliers, C classes, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from guard.heads import Head
from guard.manifest import Record
from guard.module import GuardModule, Taps
from guard.options import parse_options

from .processes import Processes

if TYPE_CHECKING:
    from guard.scores import Score

    from .data import ImageData


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
    """

    data: Tensor
    origin: str
    ready: Tensor | None = None
    parents: Tensor | None = None
    labels: Tensor | None = None
    rows: Tensor | None = None


@dataclass(frozen=True)
class Setting:
    """What a synthesiser may use before its stage begins.

    Attributes:
        module: the network as the stages before left it; train and eval modes are the caller's to restore.
        data: the in-distribution training images, labelled.
        folder: where whatever takes long is kept (generators, stores), so that a killed run continues; may not exist.
        seed: of everything random.
    """

    module: GuardModule
    data: ImageData
    folder: Path
    seed: int
    device: torch.device


class Learner(nn.Module):
    """A part that learns beside the classifier, by optimizers of its own. Checkpoints hold its state and theirs."""

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Name -> optimizer, the same objects at every call; their parameters are not the classifier's optimizer's."""
        return {}


class Synthesiser(Learner):
    """Makes outliers during training. State that must survive a restart lives in buffers, or in `Setting.folder`.

    Attributes:
        space: what is made, features or images.
        augmented: whether its images are shifted and mirrored like the in-distribution ones.
    """

    space: ClassVar[Literal["feature", "image"]]
    augmented: ClassVar[bool] = True

    def prepare(self, setting: Setting) -> None:
        """Called when its stage begins, and again where a run is resumed in it: train a generator, fill a store.

        Must go on where a killed run stopped, and return at once where everything is there.
        """

    def pool(self) -> ImageData | None:
        """The fixed images that `sample` draws from, once prepared; None where every sample is new."""
        return None

    def observe(self, features: Tensor, labels: Tensor) -> None:
        """See the detached features (N, D) of the current in-distribution batch."""

    def start_epoch(self, steps: int, generator: torch.Generator) -> None:
        """Called before each epoch in which `sample` may be called."""

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        """Outliers for this step. No host synchronisation: everything stays on the batch's device."""
        raise NotImplementedError(f"{type(self).__name__} must define sample")

    def learn(self, batch: IDBatch, module: GuardModule, generator: torch.Generator) -> dict[str, Tensor]:
        """Its own update, after the classifier's, with its own `optimizers`; scalars to log, by name.

        `batch` is as it came, before augmentation: what is sampled is augmented with the in-distribution images.
        """
        return {}


class ImageSynthesiser(Synthesiser):
    """Makes outlier images: online (`sample` in every step) or into a store (`train.synthesis.store`).

    Attributes:
        name: how users call it, as ``outliers=`` and as ``guard synth --method``.
        source: the paper it comes from.
        Options: its options and their defaults.
        count: K, the outliers of one `sample`.
        needs_classifier: whether `prepare` uses a trained classifier (the plain one, as in KIRBY).
        prepared: whether `prepare` trains something first (a generator), so that it is worth a store.
    """

    space: ClassVar = "image"
    name: ClassVar[str]
    source: ClassVar[str] = ""
    Options: ClassVar[type[Record]] = Record
    needs_classifier: ClassVar[bool] = False
    prepared: ClassVar[bool] = False

    def __init__(self, count: int, num_classes: int, **options: Any) -> None:
        super().__init__()
        self.count = count
        self.num_classes = num_classes
        self.options: Any = parse_options(self.Options, options, f"synthesiser {self.name!r}")

    def prepare_together(self, setting: Setting, us: Processes) -> None:
        """Called before `prepare` by all of several processes at once (`Processes`), to divide what takes long.

        `prepare` is then called by the first alone, and by the others after it.
        """

    @classmethod
    def uses_classifier(cls, options: Any) -> bool:
        """Whether `prepare` uses a trained classifier where these are its `Options`."""
        return cls.needs_classifier


@dataclass(frozen=True, slots=True)
class Batch:
    """What a regulariser sees: the taps of N in-distribution images with labels (N,), and of K outliers.

    Feature-space outliers have logits from the classifier's last layer and no map. `outlier_labels` are
    `Outliers.labels`; `head` gives the logits of an extra class (`Head.all_logits`). `images` are the uint8
    in-distribution images as the network saw them, augmented, for a network beside it; all that a loss draws comes
    from `generator`.
    """

    inliers: Taps
    labels: Tensor
    outliers: Taps
    outlier_labels: Tensor | None = None
    head: Head | None = None
    images: Tensor | None = None
    generator: torch.Generator | None = None


class Regulariser(Learner):
    """Loss terms that teach the difference; learned parts are parameters, trained with the classifier's optimizer.

    Attributes:
        start_epoch: the first epoch of the stage in which it acts; not before the stage's own.
        lr_factor: of its parameters, as a factor of the stage's learning rate.
        reads_map: whether its loss reads `Taps.feature_map`.
    """

    start_epoch: int = 0
    lr_factor: float = 1.0
    reads_map: bool = False

    def prepare(self, setting: Setting) -> None:
        """As `Synthesiser.prepare`: called when its stage begins or is resumed (margins from quantiles, say).

        Learned parts whose size is known only now may be made here, on the setting's device.
        """

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Name -> weighted scalar term, to be added to the cross-entropy."""
        raise NotImplementedError(f"{type(self).__name__} must define loss")

    def hand_over(self, score: Score) -> None:
        """Put what was learned into the score of the finished guard, where the score carries it."""


@dataclass(frozen=True)
class Stage:
    """One stretch of training.

    Attributes:
        epochs, lr: passes over the data; peak learning rate of the cosine schedule.
        regularisers: what the loss does with the outliers; each may start later than `start_epoch`.
        start_epoch: the first epoch (from 0) in which outliers are made and the regularisers act.
        trains: "classifier"; "head" freezes the backbone (eval mode, no gradients); "nothing" freezes the head too,
            so that only the regularisers learn and labels and probabilities stay what they are, to the bit.
        head_loss: whether the head's own loss (cross-entropy and its kin) is one of the terms.
        match_inliers: what half of the in-distribution images take over from others in every batch, as matched outliers
            do (`train.synthesis.match`): then the traces of matching teach nothing. For frozen backbones.
        freeze_norm: keep batch-norm statistics as they are (eval mode) while the weights learn.
        optimizer: "sgd" (momentum, nesterov, weight decay) or "adam" (beta1 = momentum).
        clip: largest norm of the gradient, or None.
        warmup: share of the steps with a linearly rising learning rate.
    """

    name: str
    epochs: int
    lr: float
    synthesiser: Synthesiser | None = None
    regularisers: tuple[Regulariser, ...] = ()
    start_epoch: int = 0
    trains: Literal["classifier", "head", "nothing"] = "classifier"
    head_loss: bool = True
    match_inliers: tuple[str, ...] = ()
    freeze_norm: bool = False
    optimizer: Literal["sgd", "adam"] = "sgd"
    clip: float | None = None
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    warmup: float = 0.05


OutlierMix = Mapping["ImageData | str", float]


@dataclass(frozen=True)
class Context:
    """What a method may know when it builds its stages.

    `outliers` is what ``outliers=`` named: images or a synthesiser's name, with a weight each; None where not given.
    """

    num_classes: int
    num_features: int
    map_shape: tuple[int, ...] | None
    class_counts: tuple[int, ...]
    epochs: int
    lr: float
    batch_size: int
    seed: int
    device: torch.device
    outliers: OutlierMix | None
    initialised: bool  # the network starts from a trained run (init=)
    score: Score


class MethodOptions(Record):
    """Options every method has."""


class Method:
    """Base of all methods. A subclass names its parts and returns its stages; the loop does the rest.

    Attributes:
        name: how users call it.
        head, score: what it uses unless the user says otherwise.
        head_scores: heads with another score than `score`, and which.
        heads: the heads it can train; empty: all.
        epochs, lr: its defaults.
        wants_outliers: "no", "optional" or "required": whether `outliers=` is used.
        teaches: scores with this in `Score.trained_by` learn from it too: another method's name ("" for its own only).
    """

    name: ClassVar[str]
    Options: ClassVar[type[MethodOptions]] = MethodOptions
    head: ClassVar[str] = "linear"
    heads: ClassVar[tuple[str, ...]] = ()
    score: ClassVar[str] = "energy"
    head_scores: ClassVar[Mapping[str, str]] = {}
    epochs: ClassVar[int] = 30
    lr: ClassVar[float] = 0.1
    wants_outliers: ClassVar[Literal["no", "optional", "required"]] = "no"
    teaches: ClassVar[str] = ""

    def __init__(self, options: Any) -> None:
        self.options = options

    def stages(self, context: Context) -> list[Stage]:
        """The stretches of training, in order."""
        raise NotImplementedError(f"{type(self).__name__} must define stages")

    def score_options(self) -> dict[str, Any]:
        """Options of the score that follow from the method's (e.g. the rejection head's width)."""
        return {}
