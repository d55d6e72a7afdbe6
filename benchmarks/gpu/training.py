"""Training on the device: steps of plain, vos and phase_mix for three epochs, and whether a resumed run ends alike.

A step's time is that of the last epoch over its steps; the engine waits for the device once an epoch. From the second
step of an epoch on, `torch.cuda.set_sync_debug_mode("error")` is on: a step that waits for the device stops the run,
and the table says where. A resumed run is stopped after its first epoch and gone on with; beside its largest difference
to the uninterrupted one stands that of a second uninterrupted run: what is not 0 there is the device's own.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

import guard
from train.engine.stage_run import StageRun

from .part import Part, run

TITLE = "Training"
METHODS = ("plain", "vos", "phase_mix")
EPOCHS = 3


class Stopped(Exception):
    """As by a kill."""


def measure(part: Part) -> None:
    """Each method, then the resumed run."""
    pixels, count = (16, 160) if part.toy else (32, 25_600)
    images = np.random.default_rng(0).integers(0, 256, (count, pixels, pixels, 3), dtype=np.uint8)
    data = images, np.arange(count) % (4 if part.toy else 10)
    common: dict[str, Any] = {
        "backbone": "wrn16_2" if part.toy else "resnet18",
        "epochs": EPOCHS,
        "batch_size": 40 if part.toy else 128,
        "device": part.device.type,
        "calibration": 40 if part.toy else 2000,
        "test": 0,
        "pretrained": False,
    }
    with tempfile.TemporaryDirectory() as name:
        folder, plain = Path(name), [0.0]
        for method in METHODS:
            part.attempt(f"training {method}", partial(_steps, part, data, method, common, folder / method, plain))
        part.attempt("resuming", partial(_resumed, part, data, common, folder))


def _steps(part: Part, data: Any, method: str, common: dict[str, Any], out: Path, plain: list[float]) -> None:
    waits: list[str] = []
    outliers_from_the_start = {
        "vos": {"start": 0.0, "queue": 10 if part.toy else 1000},
        "phase_mix": {"tune_epochs": 3},
    }
    options: dict[str, Any] = outliers_from_the_start.get(method, {})
    with _watched(part.device, waits):
        guard.train(data, method=method, out=out, **common, **options)
    epochs = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = (len(data[0]) - common["calibration"]) // common["batch_size"]
    step_ms = 1e3 * epochs[-1]["seconds"] / steps
    plain[0] = plain[0] or step_ms
    part.row(
        method=method,
        **{"step, ms": step_ms, "step / plain": step_ms / max(plain[0], 1e-9), "first epoch, s": epochs[0]["seconds"]},
        **{"last epoch, s": epochs[-1]["seconds"], "waits in a step": waits[0] if waits else "none"},
    )


@contextlib.contextmanager
def _watched(device: torch.device, waits: list[str]) -> Iterator[None]:
    """Steps that wait for the device are noted, and made again as they are."""
    real, seen = StageRun.step, set[tuple[int, int]]()

    def step(self: StageRun, *args: Any) -> Any:
        first = (id(self), args[3] // self.epochs.steps) not in seen  # optimizers and queues begin in it
        seen.add((id(self), args[3] // self.epochs.steps))
        if device.type != "cuda" or first or waits:
            return real(self, *args)
        torch.cuda.set_sync_debug_mode("error")
        try:
            return real(self, *args)
        except RuntimeError as error:
            torch.cuda.set_sync_debug_mode("default")
            waits.append(_where(error))
            return real(self, *args)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    with mock.patch.object(StageRun, "step", step):
        yield


def _where(error: RuntimeError) -> str:
    """The innermost line of ours that waited."""
    at, place = error.__traceback__, "?"
    while at is not None:
        file = Path(at.tb_frame.f_code.co_filename)
        if {"train", "guard"} & set(file.parts):
            place = f"{file.parent.name}/{file.name}:{at.tb_lineno}"
        at = at.tb_next
    return f"{place}: {str(error).splitlines()[0]}"


def _resumed(part: Part, data: Any, common: dict[str, Any], folder: Path) -> None:
    first, second = (guard.train(data, method="vos", out=folder / name, **common) for name in ("once", "once again"))
    with mock.patch.object(StageRun, "epoch", _stopping(StageRun.epoch)), contextlib.suppress(Stopped):
        guard.train(data, method="vos", out=folder / "stopped", **common)
    again = guard.train(data, method="vos", out=folder / "stopped", resume=True, **common)
    part.row(
        method="vos, resumed",
        **{"largest difference, resumed": _difference(first, again), "of a second run": _difference(first, second)},
    )


def _stopping(real: Any) -> Any:
    def epoch(self: StageRun, number: int) -> Any:
        if number == 1:
            raise Stopped
        return real(self, number)

    return epoch


def _difference(a: guard.Guard, b: guard.Guard) -> float:
    """Of all weights."""
    mine, theirs = a.module.state_dict(), b.module.state_dict()
    return max(float((mine[name].double() - theirs[name].double()).abs().max()) for name in mine if mine[name].numel())


if __name__ == "__main__":
    run("training", TITLE, measure)
