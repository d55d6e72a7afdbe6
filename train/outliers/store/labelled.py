"""A store of further in-distribution images, each with its class (Dream-ID)."""

from __future__ import annotations

import torch
from torch import Tensor

from guard.errors import ConfigError

from ..base import IDBatch, Outliers, PrepareContext
from .drawing import Stored
from .shards import read_made
from .store import open_store


class LabelledStore(Stored):
    """As `Stored`, for a synthesiser whose images are of their first parent's class: that is their label.

    labels: int64, of each image; there once it is prepared.
    """

    labels: Tensor

    def prepare(self, context: PrepareContext) -> None:
        super().prepare(context)
        parents, _ = read_made(open_store(context.folder / self.name).paths())
        if not all(parents):
            raise ConfigError(f"the images of synthesiser {self.synthesiser.name!r} have no class")
        self.labels = torch.tensor([row[0] for row in parents], device=context.device)

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        made = super().sample(batch, generator)
        assert made.rows is not None  # a store is a fixed pool
        labels = self.labels[made.rows]
        return made._replace(labels=labels, parents=labels[:, None])
