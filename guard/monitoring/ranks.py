"""Exactly uniform p-values of a stream of scores: each score's rank among the calibration scores AND the stream so far.

The conformal p-value of a verdict compares with the calibration scores alone. Over a long stream those p-values are
neither uniform nor independent, given one calibration set (5 % are promised, 3.9 to 6.2 % realised at n = 1000), and a
bet on them wins by itself. On-line conformal p-values are exact (Vovk, Gammerman, Shafer, "Algorithmic Learning in a
Random World", 2005, theorem 8.2): with the smoothed rank of score t among all n + t - 1 before it,

    p_t = (#{earlier scores above} + u_t (1 + #{earlier scores level})) / (n + t),   u_t uniform on [0, 1]

p_1, p_2, ... are independent and uniform whenever calibration scores and stream are exchangeable.

Keeping every score is not needed. The n calibration scores cut the line into n + 1 cells; where continuous scores fall
is a Polya urn that begins with one ball in each cell, because the cells' probabilities are Dirichlet(1, ..., 1). So

    p_t = (balls in the cells above + u_t balls in its own cell) / (n + t)

is uniform and independent of the cells before, whatever the distribution of the scores. Joined cells are an urn
again, with the sum of their balls; beyond `MOST_CELLS` neighbours are joined. Equal scores are put in order by a second
random number, that of a calibration score included, which makes (score, number) continuous. The random numbers come
from a counter-based generator: image t has the same ones however the stream was cut into batches.
"""

from __future__ import annotations

import hashlib

import numpy as np

MOST_CELLS = 512
_TIES = 2**63  # the counter's block from which calibration scores take their numbers


def uniforms(seed: int, start: int, n: int) -> np.ndarray:
    """(n, 2) numbers in [0, 1) for the images `start` .. `start` + n - 1 of a stream."""
    bits = np.random.Philox(key=seed, counter=start).random_raw(4 * n).reshape(n, 4)[:, :2]
    return (bits >> np.uint64(11)) * 2.0**-53


class Reference:
    """Calibration scores as cells.

    Args:
        scores: (n,) ood_scores of in-distribution images, in any order; n may be 0.
        seed: of the order among equal scores.

    Attributes:
        n: calibration scores.
        balls: (G,) with what the urn begins: how many of the n + 1 gaps between scores each cell joins. Cell 0 holds
            the smallest scores; G <= `MOST_CELLS`.
        digest: SHA-256 of the cells.
    """

    def __init__(self, scores: np.ndarray, *, seed: int = 0) -> None:
        scores = np.asarray(scores, dtype=np.float32)
        self.n = len(scores)
        order_among_equals = uniforms(seed, _TIES, self.n)[:, 0]
        order = np.lexsort((order_among_equals, scores))
        cuts = np.arange(self.n)
        if self.n + 1 > MOST_CELLS:
            cuts = np.linspace(0, self.n + 1, MOST_CELLS + 1).round().astype(np.int64)[1:-1] - 1
        self._edges = scores[order][cuts]
        self._ties = order_among_equals[order][cuts]
        self.digest = hashlib.sha256(self._edges.tobytes() + self._ties.tobytes()).digest()
        self.balls = np.diff(np.concatenate([[0], cuts + 1, [self.n + 1]])).astype(np.float64)

    def cells(self, scores: np.ndarray, order_among_equals: np.ndarray) -> np.ndarray:
        """(N,) the cell of each score; `order_among_equals` (N,) are its own random numbers."""
        scores = np.asarray(scores, dtype=np.float32)
        low = np.searchsorted(self._edges, scores, side="left")
        high = np.searchsorted(self._edges, scores, side="right")
        for i in np.flatnonzero(high > low):
            low[i] += np.searchsorted(self._ties[low[i] : high[i]], order_among_equals[i])
        return low


def p_values(cells: np.ndarray, u: np.ndarray, urn: np.ndarray) -> np.ndarray:
    """Draw from the urn: (N,) p-values in (0, 1) of images in these cells, in order; `urn` (G,) gets their balls.

    Time and memory grow with N^2: for a few hundred images at once.

    Args:
        cells: (N,) from `Reference.cells`.
        u: (N,) uniform on [0, 1).
        urn: (G,) float64 balls in each cell; begins as `Reference.balls`.
    """
    n = len(cells)
    at_most = urn.cumsum()
    total = at_most[-1]
    above, own = total - at_most[cells], urn[cells]
    if n > 1:
        earlier = np.tri(n, k=-1, dtype=bool)  # [i, j]: image j came before image i
        above = above + (earlier & (cells > cells[:, None])).sum(1)
        own = own + (earlier & (cells == cells[:, None])).sum(1)
    np.add.at(urn, cells, 1)
    p: np.ndarray = (above + u * own) / (total + np.arange(n))
    return p.clip(1e-15, 1 - 1e-15)
