"""A store of further in-distribution images, each with its class (Dream-ID)."""

from __future__ import annotations

import torch
from torch import Tensor

from guard.errors import ConfigError

from ..method import IDBatch, Outliers, Setting
from .shards import read_made
from .store import Stored, open_store


class LabelledStore(Stored):
    """As `Stored`, for a synthesiser whose images are of their first parent's class: that is their label."""

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        parents, _ = read_made(open_store(setting.folder / self.name).paths())
        if not all(parents):
            raise ConfigError(f"the images of synthesiser {self.synthesiser.name!r} have no class")
        self._labels = torch.tensor([row[0] for row in parents], device=setting.device)

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        made = super().sample(batch, generator)
        assert made.rows is not None  # a store is a fixed pool
        labels: Tensor = self._labels[made.rows]
        return made._replace(labels=labels, parents=labels[:, None])
