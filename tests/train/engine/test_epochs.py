"""The epoch that every training shares: its order, its numbers, and what a killed training resumes with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from guard.errors import DivergedError
from guard.record import Record
from train.engine.epochs import Epochs, epochs_showing, train_in_folder
from train.engine.seeds import epoch_seed
from train.outliers.base import IDBatch

CPU = torch.device("cpu")


class Numbers:
    """The items 0 .. n - 1, whose images are their numbers."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def batches(self, order: Tensor, batch_size: int, device: torch.device) -> Iterator[IDBatch]:
        for rows in order.split(batch_size):
            yield IDBatch(rows.float(), rows, rows)


def test_an_epoch_shows_as_many_whole_batches_as_there_are_in_a_new_order() -> None:
    epochs = Epochs("it", Numbers(23), 3, 5, 7, 2, CPU)
    seen: list[list[int]] = []
    numbered: list[int] = []
    progress: list[float] = []

    def step(batch: IDBatch, generator: torch.Generator, number: int) -> dict[str, Tensor]:
        seen[-1] += batch.labels.tolist()
        numbered.append(number)
        return {"mean": batch.images.mean().requires_grad_()}

    for epoch in range(3):
        seen.append([])
        means = epochs.means(epoch, step, before_step=progress.append)
        assert means == {"mean": pytest.approx(sum(seen[-1]) / 20, rel=1e-6)}
        assert len(set(seen[-1])) == 20
        order = torch.randperm(23, generator=torch.Generator().manual_seed(epoch_seed(7, 2, epoch)))
        assert seen[-1] == order[:20].tolist()
    assert seen[0] != seen[1]
    assert numbered == list(range(12))
    assert progress == [n / 12 for n in range(12)]


def test_some_rows_alone_can_be_trained_on() -> None:
    epochs = Epochs("it", Numbers(10), 1, 50, 0, 0, CPU, rows=torch.tensor([3, 5, 8]))
    assert (epochs.batch_size, epochs.steps) == (3, 1)
    assert sorted(epochs.order(0).tolist()) == [3, 5, 8]


def test_the_generator_of_an_epoch_is_not_that_of_its_order() -> None:
    epochs = Epochs("it", Numbers(10), 2, 5, 0, 0, CPU)
    drawn = [torch.rand(3, generator=epochs.generator(epoch)) for epoch in (0, 0, 1)]
    assert drawn[0].equal(drawn[1])
    assert not drawn[0].equal(drawn[2])
    assert epochs.generator(0).initial_seed() == epochs.seed_of(0) + 1


@pytest.mark.parametrize(("images", "of", "epochs"), [(500, 100, 5), (500, 99, 6), (500, 1000, 1)])
def test_epochs_that_show_so_many_images(images: int, of: int, epochs: int) -> None:
    assert epochs_showing(images, of) == epochs


class Config(Record):
    lr: float = 0.1


class Line:
    """A number that learns the mean of others."""

    def __init__(self, killed_after: int | None = None) -> None:
        self.net, self.killed_after = nn.Linear(1, 1, bias=False), killed_after
        nn.init.zeros_(self.net.weight)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=0.1)
        self.epochs = Epochs("line", Numbers(12), 4, 4, 0, 0, CPU)

    def step(self, batch: IDBatch, generator: torch.Generator, number: int) -> dict[str, Tensor]:
        noise = torch.rand(1, generator=generator)
        loss = (self.net.weight - batch.images.mean() + noise).square().sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss}

    def epoch(self, epoch: int) -> dict[str, float]:
        if epoch == self.killed_after:
            raise KeyboardInterrupt
        return self.epochs.means(epoch, self.step)

    def modules(self) -> dict[str, nn.Module]:
        return {"net": self.net}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"net": self.optimizer}


def records(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def test_a_killed_training_in_a_folder_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = Line()
    train_in_folder(tmp_path / "whole", Config(), whole, metrics=True)
    with pytest.raises(KeyboardInterrupt):
        train_in_folder(tmp_path / "killed", Config(), Line(killed_after=2), metrics=True)
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "loss": 1.0}\n{"epo')  # of an epoch that was not kept, and one cut short
    shown: list[int] = []
    resumed = Line()
    train_in_folder(tmp_path / "killed", Config(), resumed, metrics=True, after=shown.append)
    assert shown == [2, 3]
    assert resumed.net.weight.equal(whole.net.weight)
    assert records(tmp_path / "killed") == records(tmp_path / "whole")
    assert [record["epoch"] for record in records(tmp_path / "whole")] == [1, 2, 3, 4]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_training(bad: float) -> None:
    epochs = Epochs("classifier", Numbers(4), 3, 2, 0, 0, CPU)

    def step(batch: IDBatch, generator: torch.Generator, number: int) -> dict[str, Tensor]:
        return {"accuracy": torch.ones(()), "ce": torch.tensor(1.0 if number < 3 else bad)}

    assert epochs.run(0, step)["ce"] == 2
    with pytest.raises(DivergedError, match=r"classifier diverged in epoch 2 of 3: ce is (nan|inf); .* smaller lr="):
        epochs.run(1, step)
