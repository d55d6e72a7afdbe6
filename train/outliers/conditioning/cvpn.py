"""A conditional volume-preserving network f(., y): R^E -> R^E, a bijection for every class. From NCIS, Doorenbos
et al. 2024.

    f = 4 blocks of [Orthogonal, ConditionalCoupling], then Orthogonal
    Orthogonal            y = Q x + b,   Q = exp(A - A^T), A strictly upper triangular;     x = Q^T (y - b)
    ConditionalCoupling   [x1, x2] -> [x1 + tau(x2, h(y)), x2];                             x1 - tau(x2, h(y))

Both have determinant 1, so that g, some coordinates of f, cannot become small on the data by shrinking space. float32
or float64, never less: halves lose the inverse.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from guard.errors import ConfigError

BLOCKS = 4
HIDDEN = 4  # hidden units of tau per input or output, whichever are more

Variant = Literal["paper", "code"]


class Orthogonal(nn.Module):
    """x (N, E) -> Q x + b with Q = exp(A - A^T).

    In eval mode Q is computed once, in float64: the exponential's own error in float32, 1e-5 to 1e-4, would be the
    largest of the whole network's.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.skew = nn.Parameter(torch.empty(width, width).uniform_(-math.pi, math.pi).triu(1))
        self.bias = nn.Parameter(torch.zeros(width))
        self._fixed: Tensor | None = None
        self.register_load_state_dict_post_hook(lambda module, _: module._forget())

    def matrix(self) -> Tensor:
        """Q (E, E)."""
        upper = self.skew.triu(1)
        if self.training:
            turned: Tensor = torch.linalg.matrix_exp(upper - upper.mT)
            return turned
        if self._fixed is None:
            exact = upper.detach().double()
            self._fixed = torch.linalg.matrix_exp(exact - exact.mT).to(upper)
        return self._fixed

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix().mT + self.bias

    def inverse(self, y: Tensor) -> Tensor:
        """y (N, E) -> x."""
        return (y - self.bias) @ self.matrix()

    def train(self, mode: bool = True) -> Orthogonal:
        self._forget()
        return super().train(mode)

    def _apply(self, *arguments: Any, **named: Any) -> Orthogonal:
        self._forget()  # another device or precision
        moved: Orthogonal = super()._apply(*arguments, **named)
        return moved

    def _forget(self) -> None:
        self._fixed = None


class ConditionalCoupling(nn.Module):
    """Adds tau(x2, h) to the first `moved` of the coordinates, x = [x1, x2]; h (N, conditions) stands for the class.

    tau: Linear, sigmoid, Linear + [SiLU, Linear](h), sigmoid, Linear, sigmoid, Linear.
    """

    def __init__(self, width: int, moved: int, conditions: int) -> None:
        super().__init__()
        self.moved = moved
        rest = width - moved
        hidden = HIDDEN * max(rest, moved)
        self.first = nn.Sequential(nn.Linear(rest, hidden), nn.Sigmoid(), nn.Linear(hidden, hidden))
        self.condition = nn.Sequential(nn.SiLU(), nn.Linear(conditions, hidden))
        self.last = nn.Sequential(nn.Sigmoid(), nn.Linear(hidden, hidden), nn.Sigmoid(), nn.Linear(hidden, moved))

    def shift(self, rest: Tensor, h: Tensor) -> Tensor:
        """tau: (N, E - moved), (N, conditions) -> (N, moved)."""
        moved: Tensor = self.last(self.first(rest) + self.condition(h))
        return moved

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        moved, rest = x[:, : self.moved], x[:, self.moved :]
        return torch.cat([moved + self.shift(rest, h), rest], -1)

    def inverse(self, y: Tensor, h: Tensor) -> Tensor:
        """y (N, E) -> x."""
        moved, rest = y[:, : self.moved], y[:, self.moved :]
        return torch.cat([moved - self.shift(rest, h), rest], -1)


class CVPN(nn.Module):
    """f(x, y) = unit net(x / unit, y) and its inverse; x (N, E), classes y int64 (N,).

    Embeddings of Stable Diffusion have numbers of about 0.01, which sigmoids hardly tell apart: of x as it is, tau
    would be a constant for a very long time. The two factors cancel in the determinant.

    Args:
        unit: about how large the numbers in x are; 1 as published.
        variant: "paper": ceil(E / 2) coordinates are moved and h is as wide; "code": floor(E / 2) are, h has four
            times ceil(E / 2).
    """

    unit: Tensor

    def __init__(self, width: int, classes: int, variant: Variant = "paper", unit: float = 1.0) -> None:
        super().__init__()
        if width < 2:
            raise ConfigError(f"a volume-preserving network needs at least 2 dimensions, got {width}")
        half = -(-width // 2)
        moved, conditions = (half, half) if variant == "paper" else (width // 2, HIDDEN * half)
        self.register_buffer("unit", torch.tensor(float(unit)))
        self.embedding = nn.Embedding(classes, conditions)
        self.turns = nn.ModuleList(Orthogonal(width) for _ in range(BLOCKS + 1))
        self.couplings = nn.ModuleList(ConditionalCoupling(width, moved, conditions) for _ in range(BLOCKS))

    def forward(self, x: Tensor, classes: Tensor) -> Tensor:
        x, h = x / self.unit, self.embedding(classes)
        for turn, coupling in zip(self.turns, self.couplings, strict=False):
            x = coupling(turn(x), h)
        out: Tensor = self.turns[-1](x)
        return out * self.unit

    def inverse(self, v: Tensor, classes: Tensor) -> Tensor:
        """v (N, E) -> x with f(x, y) = v."""
        h = self.embedding(classes)
        x: Tensor = self.turns[-1].inverse(v / self.unit)  # type: ignore[operator]  # an Orthogonal
        for turn, coupling in zip(reversed(self.turns[:-1]), reversed(self.couplings), strict=True):
            x = turn.inverse(coupling.inverse(x, h))  # type: ignore[operator]
        return x * self.unit
