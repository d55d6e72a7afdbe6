"""Which candidates all public copies of NPOS keep: they read distances laid out centre by centre as noise by noise."""

from __future__ import annotations


def published_rows(distances: list[list[float]], keep: int) -> list[int]:
    """Rows of the candidates, centre after centre, given the distances [centre][noise]; `keep` per centre, best first.

    The flat list is read as (n_noise, pick), and a column's rows are translated by column * n_noise.
    """
    pick, n_noise = len(distances), len(distances[0])
    flat = [value for centre in distances for value in centre]
    kept = []
    for column in range(pick):
        values = [flat[row * pick + column] for row in range(n_noise)]
        best = sorted(range(n_noise), key=lambda row: -values[row])[:keep]
        kept += [column * n_noise + row for row in best]
    return kept
