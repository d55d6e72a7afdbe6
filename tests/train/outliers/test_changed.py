"""What changes or mixes other synthesisers' outliers hands every call on to them."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch

from train.outliers.base import Changed, IDBatch, NoOutliers, PrepareContext, Synthesiser
from train.outliers.jittered import Jittered
from train.outliers.matching import Matched
from train.outliers.published_augmentation import AugmentedAnew
from train.outliers.sources import Mixture

BATCH = IDBatch(torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.tensor([0, 1]))
CALLS: dict[str, tuple[Any, ...]] = {
    "check": (cast(PrepareContext, None),),
    "prepare": (cast(PrepareContext, None),),
    "observe": (torch.zeros(2, 3), torch.zeros(2)),
    "ready_after": (torch.zeros(1, 2, dtype=torch.int64),),
    "start_epoch": (1, torch.Generator()),
    "learn": (BATCH, None, torch.Generator()),
    "optimizers": (),
    "release": (),
}
AROUND = {
    "matched": lambda inner: Matched(inner, ["contrast"]),
    "augmented": AugmentedAnew,
    "jittered": Jittered,
    "mixture": lambda inner: Mixture({"one": 1.0}, 1, lambda *_: inner),
}


class Noting(NoOutliers):
    """Notes what it is called for."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[str] = []


for _name in CALLS:
    setattr(Noting, _name, lambda self, *_, name=_name: self.called.append(name) or {})


def test_every_wrapper_is_tried() -> None:
    assert {type(make(Noting())) for make in AROUND.values()} >= set(Changed.__subclasses__())  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("around", AROUND)
def test_every_call_reaches_the_wrapped(around: str, call: str) -> None:
    inner = Noting()
    outer: Synthesiser = AROUND[around](inner)  # type: ignore[no-untyped-call]
    getattr(outer, call)(*CALLS[call])
    assert inner.called == [call]


def test_every_hook_of_a_synthesiser_is_among_them() -> None:
    hooks = {name for name in vars(Synthesiser) if callable(getattr(Synthesiser, name)) and not name.startswith("_")}
    assert hooks - {"sample", "pool"} <= set(CALLS)
