"""What a classifier returns, and the logits (N, C) that are in it.

    "logits"        f (N, C), as they are
    "softmax"       p (N, C): log p, the logits up to a constant of the image, so p stays what it is
    "log_softmax"   log p (N, C), as they are
    "sigmoid"       p (N, C), each class judged by itself: log p / (1 - p); one column is the probability of the second
                    of two classes
    "binary"        z (N,) or (N, 1), the logit of the second of two classes: (-z / 2, z / 2)

Both columns of a binary classifier move, so that energy and the largest logit say how sure it is of either class
(of (0, z) they would say it of the second alone); softmax (-z / 2, z / 2) = (1 - sigmoid z, sigmoid z).
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..errors import ModelError
from ..heads import LastLayer

Activation = Literal["logits", "softmax", "log_softmax", "sigmoid", "binary"]
BINARY = ("sigmoid", "binary")  # of one column
NORMALISED = ("softmax", "log_softmax")  # what lost the constant that energy reads

_TINY = 2.0**-126
_ALMOST_ONE = 1 - 2.0**-24


class Reading(NamedTuple):
    """How logits are read from what a model returns.

    Attributes:
        place: the key or the position of the tensor, where the model returns several; None where it returns one.
        outputs: what its numbers are.
    """

    place: str | int | None = None
    outputs: str = "logits"

    @classmethod
    def of_options(cls, options: dict[str, Any]) -> Reading:
        """From a manifest's backbone_options."""
        return cls(options.get("place"), options.get("outputs", "logits"))

    def options(self) -> dict[str, Any]:
        """What `of_options` needs; nothing where logits are all that the model returns."""
        return {name: value for name, value in self._asdict().items() if value != type(self)._field_defaults[name]}

    def logits(self, answer: Any) -> Tensor:
        """float32 (N, C)."""
        return to_logits(picked(answer, self.place), self.outputs)


LOGITS = Reading()


def picked(answer: Any, place: str | int | None) -> Tensor:
    """The tensor at a key or a position of what a model returned.

    Raises:
        ModelError: there is no tensor.
    """
    if place is not None:
        answer = getattr(answer, place) if isinstance(place, str) and hasattr(answer, place) else answer[place]
    if not isinstance(answer, Tensor):
        raise ModelError(f"the model must return logits (N, C), got {type(answer).__name__}")
    return answer


def to_logits(numbers: Tensor, outputs: str) -> Tensor:
    """float32 logits (N, C) of a classifier's numbers (N, C), (N, C, 1, 1) or, of one column, (N,); finite where these
    are."""
    numbers = numbers.float()
    numbers = numbers.flatten(1) if numbers.ndim != 1 else numbers[:, None]
    if outputs == "softmax":
        return numbers.clamp(min=_TINY).log()
    if outputs == "sigmoid":
        p = numbers.clamp(_TINY, _ALMOST_ONE)
        numbers = p.log() - torch.log1p(-p)
    if outputs in BINARY and numbers.shape[1] == 1:
        return torch.cat((-numbers / 2, numbers / 2), 1)
    return numbers


def both_classes(layer: LastLayer) -> LastLayer:
    """The last layer of the two logits that `to_logits` makes of one; others as they are."""
    if len(layer.weight) != 1:
        return layer
    bias = None if layer.bias is None else torch.cat((-layer.bias / 2, layer.bias / 2))
    return LastLayer(torch.cat((-layer.weight / 2, layer.weight / 2)), bias)
