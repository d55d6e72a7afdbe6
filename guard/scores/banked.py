"""Scores that search a bank of training features: the whole of it, or the few lists of an inverted file.

Exact search is right for any bank, and costs one product with the whole of it per image. Above `EXACT_UP_TO` rows
search="auto" takes the inverted file, in torch and in the graph alike, so that both decide the same; the threshold is
calibrated on what it finds. Building logs the recall that it has on rows of the bank.
"""

from __future__ import annotations

import logging
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..errors import DataError
from ..record import option
from .base import Score
from .nearest.inverted_file import InvertedFile, closest_in_parts, enough, inverted_file, recall

log = logging.getLogger("ood_guard")

EXACT_UP_TO = 500_000  # rows, with search="auto"
GOOD = 0.98  # recall below which the log warns
How = Literal["auto", "exact", "inverted_file"]


def search_option() -> Any:
    """The field `search` of such a score's options."""
    return option(
        "auto",
        "exact compares every row of the bank; inverted_file only the lists near the image, faster for large banks; "
        f"auto the latter above {EXACT_UP_TO} rows.",
    )


def probes_option() -> Any:
    """The field `probes` of such a score's options."""
    return option(80, "Lists of the inverted file that are read, of about 4 sqrt(rows).", ge=1)


class BankScore(Score):
    """A score with a `bank` (M, D), and lists over it where it is searched so.

    Buffers, beside the bank: centroids (L, D) and members (L, R), only with an inverted file.
    """

    bank: Tensor
    centroids: Tensor
    members: Tensor
    INDEX: ClassVar[tuple[str, ...]] = ("centroids", "members")

    @property
    def lists(self) -> InvertedFile | None:
        """None where the search is exact."""
        buffers = [self._buffers.get(name) for name in self.INDEX]
        found = [buffer for buffer in buffers if buffer is not None]
        return InvertedFile(*found) if len(found) == len(buffers) else None

    def index(self, k: int) -> None:
        """Make the lists of the bank, or none, as the options say.

        Raises:
            DataError: the lists that are read cannot hold k rows.
        """
        for name in self.INDEX:
            self._buffers.pop(name, None)
        how: How = self.options.search
        if how == "exact" or (how == "auto" and len(self.bank) <= EXACT_UP_TO):
            return
        lists, probes = inverted_file(self.bank, self.options.seed), self.options.probes
        if not enough(lists, probes, k):
            raise DataError(
                f"score {self.name!r} with probes={probes} reads lists of fewer than k={k} rows of its bank of "
                f"{len(self.bank)}; raise probes, lower k, or search='exact'"
            )
        self.register_buffer("centroids", lists.centroids)
        self.register_buffer("members", lists.members)
        found = recall(self.bank, lists, probes, k, self.options.seed)
        say = log.info if found >= GOOD else log.warning
        say(
            "%s: an inverted file of %d lists over %d rows; reading %d of them finds %.1f %% of the nearest %d%s",
            self.name,
            len(lists.centroids),
            len(self.bank),
            min(probes, len(lists.centroids)),
            100 * found,
            k,
            "" if found >= GOOD else "; raise probes",
        )

    def closest(self, queries: Tensor, offsets: Tensor | None, k: int, lists: InvertedFile) -> tuple[Tensor, Tensor]:
        """Values and rows (N, k) of the largest x.y + offset in the lists that are read."""
        return closest_in_parts(queries, self.bank, offsets, lists, self.options.probes, k)

    def allocate(self, shapes: dict[str, tuple[int, ...]]) -> None:
        super().allocate({name: shape for name, shape in shapes.items() if name != "members"})
        if "members" in shapes:
            self.register_buffer("members", torch.zeros(shapes["members"], dtype=torch.int64))
