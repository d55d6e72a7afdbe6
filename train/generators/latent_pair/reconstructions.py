"""In-distribution images as a pair reconstructs them: class 0 of DMR's Eq. 3 (Choi & Na, CVPR 2024 workshop)."""

from __future__ import annotations

from dataclasses import replace

import torch

from ...cache.held import Held
from ...outliers.base import IDBatch, Inliers, PrepareContext
from .base import Pair, PairOptions
from .make import make_pair


class Reconstructions(Inliers):
    """G(E(x)) in place of in-distribution images x: then the generator's own traces tell nothing apart.

    Args:
        options: of the pair.
        store: of the outliers that the same pair decodes; a pair that is trained here is in its folder.
    """

    def __init__(self, options: PairOptions, store: str) -> None:
        super().__init__()
        self.options, self.store = options, store
        self._pair: Held[Pair] = Held("the pair that reconstructs is not there yet; call prepare(context) first")

    def prepare(self, context: PrepareContext) -> None:
        self._pair.put(make_pair(replace(context, folder=context.folder / self.store), self.options))

    def shown(self, batch: IDBatch, generator: torch.Generator) -> IDBatch:
        pair = self._pair.get()
        return batch._replace(images=pair.generate(pair.encode(batch.images)), rows=None)
