"""Which arguments of `guard.train` the stages of a method read; one that was given and that none reads is refused."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from guard.errors import ConfigError
from guard.requests import TrainRequest

from ..methods.base import Method, MethodContext, Stage
from .fine_tuning import chooses_epoch


class NotingContext(MethodContext):
    """A context that knows which of its fields were looked at: methods alone say what they read of it."""

    def __getattribute__(self, name: str) -> Any:
        fields = object.__getattribute__(self, "__dict__")
        fields.setdefault("_looked_at", set()).add(name)
        return object.__getattribute__(self, name)

    @property
    def looked_at(self) -> frozenset[str]:
        """Names of fields and methods."""
        return frozenset(self.__dict__["_looked_at"])


def check_read(
    request: TrainRequest, shared: Collection[str], method: Method, stages: list[Stage], looked_at: Collection[str]
) -> None:
    """Refuse what was given and is read by no stage: of a classifier that ``init=`` gives and the method keeps, say.

    Args:
        shared: arguments that were given to many trainings alike, and may go unread in some.
        stages: as the method made them.
        looked_at: what it looked at meanwhile, of its context.

    Raises:
        ConfigError: naming the first of them.
    """
    first, learned = stages[0], [stage for stage in stages if stage.trains != "nothing"]
    whole = any(stage.trains == "classifier" for stage in stages)
    read = {
        "epochs": "epochs" in looked_at,
        "lr": "lr" in looked_at,
        "weight_decay": whole,
        "backbone_lr": whole,
        "warmup_epochs": first.trains == "classifier" and first.head_loss,
        "ema": bool(learned),
        "augment": any(stage.augmented for stage in learned),
        "validation": chooses_epoch([replace(stage, epochs=max(2, stage.epochs)) for stage in stages]),
    }
    given = {name: getattr(request, name) for name in read if name not in shared}
    unread = [name for name, value in given.items() if not read[name] and value not in (None, 0, "auto", "none")]
    if not unread:
        return
    name, own = unread[0], [option for option in type(method.options).model_fields if option.startswith("tune_")]
    start = " with init=" if request.init is not None else ""
    instead = f", or see its options {', '.join(own)}" if own else ""
    raise ConfigError(
        f"method {method.name!r}{start} does not read {name}={given[name]!r}: {_why(name, stages)}; drop it{instead}"
    )


def _why(name: str, stages: list[Stage]) -> str:
    """Why no stage reads that argument."""
    titles = " and ".join(repr(stage.name) for stage in stages)
    if name == "validation":
        return f"accuracy chooses the epoch of stages that learn from labels alone, not of {titles}"
    return f"it trains nothing but {titles}"
