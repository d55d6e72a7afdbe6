"""What a client sends and what comes back, without a connection: both clients are these functions and a wait between.

image --encoded--> bytes --Ask--> POST --answer--> ServedVerdict, or an error in the service's own words
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import ConfigError, ServiceError
from ..given import count_given
from ..image_arrays import as_sequence
from ..verdict import Verdict
from .encoding import encoded

_NAN = ("probability", "ood_score", "p_value")  # null where they are not numbers, for JSON has no NaN


@dataclass(frozen=True, slots=True)
class ServedVerdict(Verdict):
    """A `Verdict` that a service gave, and which weights gave it.

    Attributes:
        model: ``name@short-hash`` of the artefact; it changes when the service gets another one.
    """

    model: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As the service sent it: a number that is not there is None."""
        values = asdict(self)
        for name in ("threshold", *_NAN):
            values[name] = values[name] if math.isfinite(values[name]) else None
        return values

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> ServedVerdict:
        """From the service's JSON; fields that this version does not know are left out.

        Raises:
            ServiceError: it is not a verdict.
        """
        try:
            known = {name: answer[name] for name in cls.__dataclass_fields__}
        except (KeyError, TypeError):
            raise ServiceError(f"the service did not answer with a verdict but with {str(answer)[:100]!r}") from None
        known["threshold"] = math.inf if known["threshold"] is None else known["threshold"]
        known |= {name: math.nan for name in _NAN if known[name] is None}
        return cls(**known)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: method, path below the service's address, and what `httpx` takes beside them."""

    method: str
    path: str
    more: Mapping[str, Any]


def verdicts(answer: Any) -> list[ServedVerdict]:
    """Those of a /predict_batch answer.

    Raises:
        ServiceError: it is not one.
    """
    try:
        listed = list(answer["verdicts"])
    except (KeyError, TypeError):
        raise ServiceError(f"the service did not answer with verdicts but with {str(answer)[:100]!r}") from None
    return [ServedVerdict.of(one) for one in listed]


def ask_one(image: Any, model: str | None) -> Ask:
    """POST /predict with the encoded image as the body."""
    (one,) = _exactly_one(image)
    return Ask("POST", "predict", {"content": encoded(one), "params": _chosen(model)})


def ask_batches(images: Any, batch_size: int, model: str | None) -> Iterator[Ask]:
    """POST /predict_batch, `batch_size` images at a time; encoded as they are asked for."""
    count_given(batch_size, "batch_size", least=1)
    items = as_sequence(images)
    for start in range(0, len(items), batch_size):
        numbers = range(start, min(start + batch_size, len(items)))
        files = [("images", (str(i), encoded(items[i]))) for i in numbers]
        yield Ask("POST", "predict_batch", {"files": files, "params": _chosen(model)})


def ask_for(path: str, model: str | None = None) -> Ask:
    """GET."""
    return Ask("GET", path, {"params": _chosen(model)})


def _chosen(model: str | None) -> dict[str, str]:
    return {} if model is None else {"model": model}


def _exactly_one(image: Any) -> list[Any]:
    items = list(as_sequence(image))
    if len(items) != 1:
        raise ConfigError(f"predict asks about one image, got {len(items)}; give them to predict_batch")
    return items
