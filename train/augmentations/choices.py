"""One of several functions for each row of a batch, without asking the device how many rows got which."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Choice(NamedTuple):
    """Which rows each kind works on, and where the result of each row is.

    members: int64 (kinds, m), rows of the batch; m = ceil(rows / kinds). Where kinds * m is larger than the number of
        rows, some rows stand in two places, and the result of one of them is not used.
    places: int64 (rows,), the place in members.flatten() whose result is that row's.
    """

    members: Tensor
    places: Tensor


def choose(rows: int, kinds: int, generator: torch.Generator) -> Choice:
    """A kind for each row, all kinds alike likely, and as even as a shuffled deck of cards: every kind has m places.

    Sizes are known on the host, so that each kind is one slice. Draws of different rows are not independent: a kind
    is never given to more than m rows.
    """
    m = -(-rows // kinds)
    places = torch.randperm(kinds * m, generator=generator, device=generator.device)
    return Choice((places.argsort() % rows).view(kinds, m), places[:rows])
