"""What a head is, and what scores may know about it."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..record import Record, Registry, parse_options


class LastLayer(NamedTuple):
    """The classifier's last layer as scores see it: logits = weight @ h + bias, or its cosine form.

    weight (C, D); bias (C,) or None; scale is the s of a cosine head (logits = s cos(h, w_c)) and None for linear ones.
    reject is the row (D,) and the bias () of an extra class for outliers, which the logits do not show, or None.
    standardised is the sigma of a head that standardises h before the layer, or None. Such logits see no size of h;
    scores that compute logits anew put h itself into the layer, where its size counts (`guard.heads.standardised`).
    """

    weight: Tensor
    bias: Tensor | None
    scale: float | None = None
    reject: tuple[Tensor, Tensor] | None = None
    standardised: float | None = None


class NoOptions(Record):
    """A head without options."""


class Head(nn.Module):
    """pooled (N, P) --embed--> features (N, D) --forward--> logits (N, C).

    `forward` is inference, the same in training and in the exported graph. Whatever exists in training only (margins,
    prototypes that move) is in `loss`, which sees labelled in-distribution images and nothing else: outliers have no
    target, so they never get a margin.

    Attributes:
        name: how users call it.
        source: the paper it comes from.
        score: the score that belongs to it; "" for the method's.
        meaningless_length: whether the length of its logits says nothing, so that scores which read it fail.
        Options: what ``head_options=`` may hold; defaults as the field uses them.
        num_features: D, the width that scores and synthesisers see; num_classes: C.
    """

    name: ClassVar[str]
    source: ClassVar[str] = ""
    score: ClassVar[str] = ""
    meaningless_length: ClassVar[bool] = False
    Options: ClassVar[type[Record]] = NoOptions

    def __init__(self, num_features: int, num_classes: int, **options: Any) -> None:
        super().__init__()
        self.options: Any = parse_options(self.Options, options, f"head {self.name!r}")
        self.num_features = num_features
        self.num_classes = num_classes

    def embed(self, pooled: Tensor) -> Tensor:
        """The features that logits, scores and synthesisers read: (N, D) from the backbone's pooled (N, P)."""
        return pooled

    def forward(self, features: Tensor) -> Tensor:
        """Logits (N, C) of features (N, D), without any margin."""
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def all_logits(self, features: Tensor) -> Tensor:
        """The logits training works on: `forward`'s, and those of extra classes after them."""
        logits: Tensor = self(features)
        return logits

    def loss(self, features: Tensor, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Terms of a training step, by name; called once per step, because it may move the head's state.

        Args:
            features: (N, D) of labelled in-distribution images.
            logits: (N, C), `forward` of them.
            labels: int64 (N,).
        """
        return {"ce": F.cross_entropy(full_precision(logits), labels)}

    def own_decay(self) -> dict[nn.Parameter, float]:
        """Parameters whose weight decay is not the stage's, each with its own."""
        return {}

    @property
    def moves(self) -> bool:
        """Whether `loss` may change the head's state, which is in buffers: then it cannot be asked twice in a step."""
        return next(self.buffers(), None) is not None

    def last_layer(self) -> LastLayer:
        """A snapshot of the weights for fitting scores."""
        raise NotImplementedError(f"{type(self).__name__} must define last_layer")


HEADS: Registry[type[Head]] = Registry("head", Head)
register_head = HEADS.register
list_heads = HEADS.names
head_class = HEADS.get


def create_head(name: str, num_features: int, num_classes: int, **options: Any) -> Head:
    """A head with fresh weights; wrong options raise `ConfigError` naming the accepted ones."""
    return head_class(name)(num_features, num_classes, **options)


def full_precision(x: Tensor) -> Tensor:
    """What autocast left in bfloat16 or float16 as float32; float32 and float64 as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
