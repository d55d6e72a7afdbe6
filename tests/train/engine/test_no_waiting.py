"""Nothing inside a step waits for the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

import guard
from guard.heads import list_heads
from tests.conftest import RECIPES, Arrays
from tests.train.engine.runs import Tiny, short
from train.engine.stage_run import StageRun


def uncounted(step: Callable[..., Any]) -> Callable[..., Any]:
    """Adam's step without `NoWaiting`: it reads its count of steps, which lives on the host."""

    def run(self: torch.optim.Adam, *arguments: Any) -> Any:
        with _disable_current_modes():
            return step(self, *arguments)

    return run


class NoWaiting(TorchDispatchMode):
    """Refuse every operation whose result the host needs before it can go on: on a GPU each would stop the pipeline."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique", "bincount", "item")

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name.startswith(self.WAITS) or (name == "repeat_interleave" and "Tensor" in str(function)):
            raise AssertionError(f"{function} waits for the device")
        if name in ("index", "index_put", "index_put_") and any(
            i is not None and i.dtype == torch.bool for i in arguments[1]
        ):
            raise AssertionError(f"{function} with a mask waits for the device")
        return function(*arguments, **(kwargs or {}))


HEADS: dict[str, dict[str, Any]] = {name: {"head": name, "score": "energy"} for name in list_heads()}
HEADS["adacos"]["head_options"] = {"adaptive": True}


@pytest.mark.parametrize("name", [*RECIPES, *(name for name in HEADS if name not in RECIPES)])
def test_nothing_waits_for_the_device_inside_a_step(
    name: str, four: Arrays, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, stages = StageRun.step, set()

    def watched(self: StageRun, *arguments: Any) -> Any:
        stages.add(self.stage.name)
        with NoWaiting():
            return step(self, *arguments)

    monkeypatch.setattr(StageRun, "step", watched)
    monkeypatch.setattr(torch.optim.Adam, "step", uncounted(torch.optim.Adam.step))
    short_run = {"epochs": 2 if name == "vos" else 1}  # its queues are full after one
    short_run |= {"tune_epochs": 1} if name.startswith("rejection") else {}
    guard.train(short(four), ema=0.9, **{**tiny, "augment": "crop+flip", **(RECIPES | HEADS)[name], **short_run})
    assert stages


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: float(x.sum()),
        lambda x: bool(x.sum() > 0),
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: torch.nonzero(x),
        lambda x: int(x.argmax()),
    ],
)
def test_waiting_is_noticed(wait: Callable[[Tensor], Any]) -> None:
    with pytest.raises(AssertionError, match="waits for the device"), NoWaiting():
        wait(torch.ones(3))
