"""Several sources of outliers in one: each step takes a share of every one (a union of stores, DMR + KIRBY, say)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from guard.data.union import union
from guard.errors import ConfigError
from guard.graph.module import GuardModule

from ..base import IDBatch, Outliers, PrepareContext, Synthesiser

if TYPE_CHECKING:
    from guard.data import ImageData


def shares(weights: list[float], count: int) -> list[int]:
    """`count` divided in proportion to `weights` (> 0), each at least 1, by largest remainders.

    Raises:
        ConfigError: a weight is not positive, or `count` is smaller than the number of weights.
    """
    if min(weights) <= 0:
        raise ConfigError(f"weights of outlier sources must be above 0, got {min(weights)}")
    if count < len(weights):
        raise ConfigError(f"{len(weights)} outlier sources need at least as many outliers per step, got {count}")
    spare = count - len(weights)
    exact = [spare * w / sum(weights) for w in weights]
    given = [int(x) for x in exact]
    order = sorted(range(len(weights)), key=lambda i: given[i] - exact[i])
    for i in order[: spare - sum(given)]:
        given[i] += 1
    return [1 + n for n in given]


class Mixture(Synthesiser):
    """`count` outliers per step from several sources, in proportion to their weights.

    Args:
        weights: what -> weight; `make` turns a what and its count into a synthesiser.
    """

    space: ClassVar = "image"

    def __init__(self, weights: Mapping[Any, float], count: int, make: Callable[[Any, int], Synthesiser]) -> None:
        super().__init__()
        counts = shares(list(weights.values()), count)
        self.parts = nn.ModuleList(make(what, n) for what, n in zip(weights, counts, strict=True))
        self.count = count
        self._pool: ImageData | None = None

    def prepare(self, context: PrepareContext) -> None:
        for part in self._parts():
            part.prepare(context)

    def pool(self) -> ImageData | None:
        """The pools of all parts, one after the other; None where one of them has none."""
        if self._pool is None:
            pools = [pool for part in self._parts() if (pool := part.pool()) is not None]
            self._pool = union(pools) if len(pools) == len(self.parts) else None
        return self._pool

    def start_epoch(self, steps: int, generator: torch.Generator) -> None:
        for part in self._parts():
            part.start_epoch(steps, generator)

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {f"{i}.{k}": o for i, part in enumerate(self._parts()) for k, o in part.optimizers().items()}

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        made = [part.sample(batch, generator) for part in self._parts()]
        data, origin = torch.cat([m.data for m in made]), " + ".join(m.origin for m in made)
        return Outliers(data, origin, rows=self._rows(made))

    def _rows(self, made: list[Outliers]) -> torch.Tensor | None:
        """Rows of the common pool."""
        if self.pool() is None:
            return None
        rows, start = [], 0
        for part, outliers in zip(self._parts(), made, strict=True):
            pool = part.pool()
            if outliers.rows is None or pool is None:
                return None
            rows.append(outliers.rows + start)
            start += len(pool)
        return torch.cat(rows)

    def learn(self, batch: IDBatch, module: GuardModule, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {k: v for part in self._parts() for k, v in part.learn(batch, module, generator).items()}

    def _parts(self) -> list[Synthesiser]:
        return list(self.parts)  # type: ignore[arg-type]
