"""What the processes of `test_distributed_training` run: ``torchrun together.py COMMAND ...``, or python alone.

Of guards it trains those of the recipes NAMES, each in FOLDER, with the terms of every step's loss in losses.json:

    train FOLDER NAMES OPTIONS    in single precision
    exact FOLDER NAMES OPTIONS    in double precision
    kill FOLDER NAME OPTIONS      until the last process gets SIGKILL in the middle of the third epoch

    store FOLDER                  a store of outliers
    divided FILE                  losses and gradients of small networks, whole and divided, in double precision
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

torch.set_num_threads(1)
if sys.argv[1] in ("exact", "divided"):
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign, assignment]

import guard  # noqa: E402
import tests.toy_diffusion  # noqa: E402, F401
from guard.data import load  # noqa: E402
from guard.launched import is_first_process  # noqa: E402
from tests import published  # noqa: E402
from tests.conftest import RECIPES, TINY  # noqa: E402
from train.engine.distributed import processes  # noqa: E402
from train.engine.divided import average_gradients, divided  # noqa: E402
from train.engine.loader import Feed  # noqa: E402
from train.engine.stage_run import StageRun  # noqa: E402
from train.outliers.store import fill  # noqa: E402

SHORT: dict[str, Any] = {"backbone": "wrn10_2", "precision": "fp32"}
KILLED_AT = 15  # of the 24 steps of four epochs


def images() -> tuple[np.ndarray, np.ndarray]:
    """100 images each of the digits 0-3 at 16 pixels, as the fixture `four`."""
    data = load("digits:0-3")
    assert data.array is not None
    assert data.labels is not None
    rows = np.stack([np.flatnonzero(data.labels == c)[:100] for c in range(4)], 1).ravel()
    return np.ascontiguousarray(data.array[rows, ::2, ::2]), np.array(data.labels[rows])


def train(folder: Path, names: str, options: str, kill: bool = False) -> None:
    """`options` are JSON: {name: arguments of guard.train}, of all under ""."""
    losses: list[dict[str, float]] = []
    update = StageRun._update

    def logged(self: StageRun, terms: dict[str, Tensor], *arguments: Any) -> Tensor:
        if kill and len(losses) == KILLED_AT and processes().rank == processes().world - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        losses.append({name: term.item() for name, term in terms.items()})
        return update(self, terms, *arguments)

    StageRun._update = logged  # type: ignore[method-assign]
    for name in names.split(","):
        losses.clear()
        out = folder / name
        given = json.loads(options)
        guard.train(
            images(), **{**TINY, **SHORT, **RECIPES[name], "out": out, **given.get("", {}), **given.get(name, {})}
        )
        if is_first_process():
            (out / "losses.json").write_text(json.dumps(losses))


def store(folder: Path) -> None:
    fill.SHARD_SIZE = 16
    guard.synth(images(), method="mask_mix", out=folder, count=100, gallery=False, batch_size=32, device="cpu")


class Pair(nn.Module):
    """A generator whose images a network judges, so that gradients go through rows that were divided before."""

    def __init__(self) -> None:
        super().__init__()
        self.made = nn.Sequential(nn.Linear(4, 3 * 8 * 8), nn.Unflatten(1, (3, 8, 8)), nn.BatchNorm2d(3))
        self.body = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(180))
        self.head = nn.Linear(180, 4)

    def loss(self, z: Tensor, labels: Tensor, whole: bool) -> Tensor:
        def passed(function: nn.Module, x: Tensor) -> Tensor:
            made: Tensor = function(x) if whole else divided(function, x)
            return made

        images = passed(self.made, z)
        features = passed(self.body, images)
        fit = nn.functional.cross_entropy(self.head(features), labels)
        return fit + features.std(0).mean() + (images**3).mean() + self.body[0].weight.square().sum()


def step(rows: int, whole: bool) -> dict[str, Tensor]:
    torch.manual_seed(rows)
    pair, z, labels = Pair(), torch.randn(rows, 4), torch.randint(4, (rows,))
    loss = pair.loss(z, labels, whole)
    loss.backward()
    if not whole:
        average_gradients(pair.parameters())
    gradients = {name: p.grad for name, p in pair.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients, **{f"{name}, its state": b for name, b in pair.named_buffers()}}


def read() -> dict[str, float]:
    """How much is wrong in batches of images that are read, and not held: 7, 7 and 2 of them for three processes."""
    arrays, order = images(), torch.arange(30, 14, -1)
    feed = Feed(load(arrays))
    feed._on_device = lambda _: None  # type: ignore[method-assign, assignment]
    found = list(feed.batches(order, 7, torch.device("cpu")))
    assert [len(batch.images) for batch in found] == [7, 7, 2]
    wrong = {"images": 0.0, "labels": 0.0}
    for batch, rows in zip(found, order.split(7), strict=True):
        assert batch.rows is not None
        assert torch.equal(batch.rows, rows)
        wrong["images"] += float((batch.images.numpy() != arrays[0][rows]).sum())
        wrong["labels"] += float((batch.labels.numpy() != arrays[1][rows]).sum())
    return wrong


def units(file: Path) -> None:
    found: dict[int, dict[str, float]] = {0: read()}
    for rows in (7, 6, 2):
        whole, shared = step(rows, True), step(rows, False)
        found[rows] = {name: (whole[name] - shared[name]).abs().max().item() for name in whole}
    if is_first_process():
        file.write_text(json.dumps(found))


def left() -> None:
    """Fail where threads of the group outlive the program: now and then one of them aborts it."""
    if torch.distributed.is_initialized():
        os._exit(9)


if __name__ == "__main__":
    atexit.register(left)  # before the processes meet, so after whatever they register
    command, place, *rest = sys.argv[1:]
    teacher = Path(f"{place}-teacher")  # one folder for all processes: `published.FOLDER` is each one's own
    RECIPES["tgt"]["teacher"] = str(teacher)
    if is_first_process():
        teacher.parent.mkdir(parents=True, exist_ok=True)
        published.write(teacher)
    processes().wait()
    if command in ("train", "exact", "kill"):
        train(Path(place), *rest, kill=command == "kill")
    else:
        {"store": store, "divided": units}[command](Path(place))
