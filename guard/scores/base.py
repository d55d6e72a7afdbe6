"""What a score is."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..heads import LastLayer
from ..record import Record, Registry, option, parse_options

if TYPE_CHECKING:
    from ..graph.outputs import Outputs

Need = Literal[
    "logits",
    "features",
    "weights",
    "extra class",
    "feature map",
    "layer maps",
    "input gradient",
    "turned images",
    "mirror image",
]


class ScoreOptions(Record):
    """What every score of features and logits alone can be asked for."""

    mirror: bool = option(
        False,
        "Look at the mirror image too and take means of features and logits: detects better, for twice the time per "
        "image; for classifiers that were trained with mirrored images.",
    )


class NoOptions(ScoreOptions):
    """A score without options of its own."""


class Score(nn.Module):
    """(features (N, D), logits (N, C)[, feature_map]) -> ood_score (N,), higher = more out-of-distribution.

    A fitted score reads its data once, in batches, at constant memory: ``begin``, ``update`` per batch, ``finish``;
    ``fit`` is the three for data in memory. Fitted state lives in buffers, float32 where the graph computes.

    Attributes:
        name: how users call it.
        equation: ood_score in one line of plain text; h features, f logits, p = softmax f, W and b the last layer.
        source: the paper it comes from.
        needs: what it reads beyond the labels of its fitting data: "logits", pooled "features", the last layer's
            "weights", a head's "extra class", the last "feature map", intermediate "layer maps", the "input gradient",
            or "turned images": `feature_map` is then the features of the three quarter turns, side by side (N, 3 D).
            With ``mirror=True`` also the "mirror image": features and logits are the means of both.
        needs_fit: whether ``update`` must see in-distribution data.
        trained_by: the training method (or head) whose state it carries, or "" for a score any classifier can have.
        learns_from_outliers: whether `guard.fit` can train it too, on a frozen classifier, from ``outliers=``.
        no_export: why it cannot be part of a graph, as the end of a sentence; "" where it exports.
        nearest: the exportable score closest to it, where it does not export.
        caution: where it is known to fail, as the end of a sentence; "" where nothing is.
        reads_length: whether longer logits of the same direction are less out-of-distribution to it.
        takes_held_out: whether `settle` makes it better with in-distribution images that nothing was trained on.
        uses_map: whether it reads the last feature map (N, ...), or what stands in its place, beside or instead of the
            pooled features.
        layers: names of the modules whose outputs it reads; `feature_map` is then their summaries, side by side.
    """

    name: ClassVar[str]
    equation: ClassVar[str] = ""
    source: ClassVar[str] = ""
    needs: ClassVar[tuple[Need, ...]] = ("logits",)
    Options: ClassVar[type[Record]] = NoOptions
    needs_fit: ClassVar[bool] = False
    trained_by: ClassVar[str] = ""
    learns_from_outliers: ClassVar[bool] = False
    no_export: ClassVar[str] = ""
    nearest: ClassVar[str] = ""
    caution: ClassVar[str] = ""
    reads_length: ClassVar[bool] = False
    takes_held_out: ClassVar[bool] = False
    uses_map: bool = False
    layers: tuple[str, ...] = ()

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options: Any = parse_options(self.Options, options, f"score {self.name!r}")
        if self.mirrored:
            self.needs = (*self.needs, "mirror image")  # type: ignore[misc]

    @property
    def mirrored(self) -> bool:
        """Whether features and logits are to be the means of those of an image and of its mirror image."""
        return isinstance(self.options, ScoreOptions) and self.options.mirror

    def begin(self, num_features: int, num_classes: int, last_layer: LastLayer | None) -> None:
        """Get ready for `update`; `last_layer` is None for classifiers without one."""

    def update(self, features: Tensor, logits: Tensor, labels: Tensor, feature_map: Tensor | None = None) -> None:
        """Learn from a batch: features (n, D), logits (n, C), labels (n,), map (n, ...) or None, on any device."""

    def finish(self) -> None:
        """Turn what `update` gathered into the buffers `forward` reads."""

    def fit(
        self,
        features: Tensor,
        logits: Tensor,
        labels: Tensor,
        last_layer: LastLayer | None = None,
        feature_map: Tensor | None = None,
    ) -> Score:
        """Fit on in-distribution data in memory: features (n, D), logits (n, C), labels (n,), map (n, ...) or None."""
        self.begin(features.shape[1], logits.shape[1], last_layer)
        self.update(features, logits, labels, feature_map)
        self.finish()
        return self

    def settle(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> None:
        """After `finish`, for scores with `takes_held_out`: the outputs of held-out in-distribution images."""
        raise NotImplementedError(f"{type(self).__name__} must define settle")

    def taught(self, donor: Score) -> Score:
        """For scores with `trained_by`: this one with what `donor`, of the same kind, learned. Options on which the
        training depends are the donor's."""
        return copy.deepcopy(donor)

    def parts(self) -> list[Score]:
        """The scores that this one combines; itself where it is one."""
        return [self]

    @property
    def label(self) -> str:
        """What people call it: of a combination its parts, "energy+vim"."""
        return "+".join(part.name for part in self.parts())

    def forward(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def choose(self, ends: tuple[str, ...]) -> tuple[str, ...]:
        """For scores that need "layer maps": which of the ends of a network's stages it reads where nobody says."""
        return ends

    def watch(self, layers: Sequence[str], widths: Sequence[int]) -> None:
        """For scores that need "layer maps": read these modules, whose summaries have `widths` numbers. Before fit."""
        raise NotImplementedError(f"{type(self).__name__} must define watch")

    def summarise(self, layer_map: Tensor) -> Tensor:
        """For scores that need "layer maps": the output of one of `layers`, (N, c), (N, c, h, w) or tokens (N, L, c),
        as the numbers (N, k) that the score keeps of it."""
        raise NotImplementedError(f"{type(self).__name__} must define summarise")

    def perturb(self, x: Tensor, look: Callable[[Tensor], Outputs], unit: Tensor) -> tuple[Outputs, Tensor]:
        """For scores that need the "input gradient": the outputs of x, and the images x' whose outputs are to be
        scored.

        Args:
            x: normalised images (N, channels, H, W).
            look: normalised images -> `Outputs`, in eval mode.
            unit: (1, channels, 1, 1), how far apart black and white are in each normalised channel: 1 / std.
        """
        raise NotImplementedError(f"{type(self).__name__} must define perturb")

    def allocate(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Make buffers and parameters of these shapes, for loading saved state into."""
        current = self.state_dict()
        for key, shape in shapes.items():
            if key in current and tuple(current[key].shape) == tuple(shape):
                continue
            if "." in key:
                raise ConfigError(f"score {self.name!r} cannot hold saved state {key!r} of shape {tuple(shape)}")
            self.register_buffer(key, torch.zeros(shape))


SCORES: Registry[type[Score]] = Registry("score", Score)
register_score = SCORES.register
list_scores = SCORES.names
get_score = SCORES.get


def create_score(name: str, **options: Any) -> Score:
    """An unfitted score; wrong options raise `ConfigError` naming the accepted ones.

    "energy+vim" is short for "combined" with these parts.
    """
    if "+" in name:
        parts = [part.strip() for part in name.split("+")]
        return get_score("combined")(parts=parts, **options)
    return get_score(name)(**options)


def unfitted(score: Score) -> ConfigError:
    """The error of a score that is asked for numbers before it was fitted."""
    how = "call fit(features, logits, labels, last_layer) first"
    if score.trained_by:
        how = f"it is learned by guard.train(..., method={score.trained_by!r})"
    if score.learns_from_outliers:
        how += ", or by guard.fit(..., outliers=...)"
    return ConfigError(f"score {score.name!r} was not fitted; {how}")
