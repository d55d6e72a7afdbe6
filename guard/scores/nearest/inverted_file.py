"""Nearest rows by an inverted file: rows in lists around centroids, of which a query reads the few that are nearest.

    lists      L centroids, at most 4 sqrt(M), by k-means (Lloyd) on a sample; every row in the nearest list with room
    search     the `probes` lists with the largest  x.m - |m|^2 / 2  (so the nearest centroids m), and in them the exact
               closeness of every row

A query compares L centroids and about 1.25 probes M / L rows in place of M: with 80 probes at M = 1e6 a thirtieth, and
unlike a matrix product over the bank it does not read the whole of it for a single image. What it finds is exact among
the rows it reads: a neighbour in another list is missed. `recall` says how many are found.

Lists hold at most 1.25 M / L rows (`ROOM`), so that a graph gathers blocks of one shape; rows beyond go to the next
nearest list. Those with few rows are given up. Source: Sivic & Zisserman, ICCV 2003; Jegou, Douze & Schmid, TPAMI 2011.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

ROOM = 1.25  # rows of a list, at most, over their mean number
LEAST = 0.25  # at least so many: a list with fewer is given up, that any few lists hold enough
SAMPLE = 32  # rows per list that k-means looks at
STEPS = 8  # of k-means
QUERIES = 256  # rows that recall is measured with
CHUNK = 2**24  # numbers to compare at once
GATHERED = 2**22  # numbers of rows to gather at once


@dataclass(frozen=True)
class InvertedFile:
    """centroids (L, D); members (L, R) int64, rows of the bank in each list and -1 where it has no more."""

    centroids: Tensor
    members: Tensor


def inverted_file(bank: Tensor, seed: int) -> InvertedFile:
    """The lists of a bank (M, D), M >= 1; the same on every machine up to rounding."""
    rows = len(bank)
    count = max(1, min(rows, round(4 * math.sqrt(rows))))
    centroids = _k_means(bank, count, torch.Generator().manual_seed(seed))
    while True:
        mean = rows / len(centroids)
        members = _members(bank, centroids, math.ceil(ROOM * mean))
        large = (members >= 0).sum(1) >= LEAST * mean
        if large.all():
            return InvertedFile(centroids, members)
        centroids = centroids[large]


def candidates(queries: Tensor, lists: InvertedFile, probes: int) -> Tensor:
    """Rows of the bank, int64 (N, P R), and -1: those of the lists nearest to queries (N, D)."""
    halves = lists.centroids.square().sum(-1) / -2
    near = F.linear(queries, lists.centroids, halves).topk(min(probes, len(halves)), dim=-1, sorted=False).indices
    return lists.members[near].flatten(1)


def closest(
    queries: Tensor, bank: Tensor, offsets: Tensor | None, lists: InvertedFile, probes: int, k: int
) -> tuple[Tensor, Tensor]:
    """The k rows with the largest x.y + offset among the candidates: values and rows (N, k), the largest first."""
    rows = candidates(queries, lists, probes)
    held = rows.clamp_min(0)
    values = torch.matmul(bank[held], queries[:, :, None])[:, :, 0]
    if offsets is not None:
        values = values + offsets[held]
    top = values.masked_fill(rows < 0, -torch.inf).topk(k, dim=-1)
    return top.values, held.gather(1, top.indices)


def closest_in_parts(
    queries: Tensor, bank: Tensor, offsets: Tensor | None, lists: InvertedFile, probes: int, k: int
) -> tuple[Tensor, Tensor]:
    """`closest`, at a memory that does not grow with N; whole while being exported."""
    if torch.compiler.is_compiling() or not len(queries):
        return closest(queries, bank, offsets, lists, probes, k)
    step = max(1, GATHERED // (min(probes, len(lists.members)) * lists.members.shape[1] * bank.shape[1]))
    parts = [closest(part, bank, offsets, lists, probes, k) for part in queries.split(step)]
    return torch.cat([values for values, _ in parts]), torch.cat([rows for _, rows in parts])


def enough(lists: InvertedFile, probes: int, k: int) -> bool:
    """Whether any query meets at least k rows: the `probes` smallest lists hold as many."""
    sizes = (lists.members >= 0).sum(1)
    return int(sizes.sort().values[:probes].sum()) >= k


def recall(bank: Tensor, lists: InvertedFile, probes: int, k: int, seed: int) -> float:
    """Share of the k nearest rows that are found, of rows of the bank itself drawn with the seed (which are not counted
    among their own neighbours)."""
    chosen = torch.randperm(len(bank), generator=torch.Generator().manual_seed(seed))[:QUERIES].to(bank.device)
    queries, offsets = bank[chosen], bank.square().sum(-1) / -2
    most = min(k + 1, len(bank))
    parts = queries.split(max(1, CHUNK // len(bank)))
    exact = torch.cat([F.linear(part, bank, offsets).topk(most, dim=-1).indices for part in parts])
    _, found = closest_in_parts(queries, bank, offsets, lists, probes, most)
    true = exact != chosen[:, None]
    hit = (exact[:, :, None] == found[:, None, :]).any(-1) & true
    return float(hit.sum() / true.sum().clamp_min(1))


def _k_means(bank: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Centroids (count, D) of a sample; one that nothing is nearest to stays where it was."""
    order = torch.randperm(len(bank), generator=generator)[: SAMPLE * count].to(bank.device)
    sample = bank[order]
    centroids = sample[:count].clone()
    for _ in range(STEPS):
        nearest = torch.cat([_nearness(part, centroids).argmax(-1) for part in _parts(sample, count)])
        sums = torch.zeros_like(centroids).index_add_(0, nearest, sample)
        sizes = torch.bincount(nearest, minlength=count)[:, None]
        centroids = torch.where(sizes > 0, sums / sizes.clamp_min(1), centroids)
    return centroids


def _nearness(rows: Tensor, centroids: Tensor) -> Tensor:
    return F.linear(rows, centroids, centroids.square().sum(-1) / -2)


def _parts(rows: Tensor, count: int) -> Sequence[Tensor]:
    parts: Sequence[Tensor] = rows.split(max(1, CHUNK // count))
    return parts


def _members(bank: Tensor, centroids: Tensor, room: int) -> Tensor:
    """Rows into lists of at most `room`: the nearest first, and those turned away to the nearest list with room."""
    members = torch.full((len(centroids), room), -1, dtype=torch.int64, device=bank.device)
    taken = torch.zeros(len(centroids), dtype=torch.int64, device=bank.device)
    pending = torch.arange(len(bank), device=bank.device)
    while len(pending):
        free = (taken < room).nonzero()[:, 0]
        best = [_nearness(part, centroids[free]).max(-1) for part in _parts(bank[pending], len(free))]
        lists, values = free[torch.cat([b.indices for b in best])], torch.cat([b.values for b in best])
        values = values - bank[pending].square().sum(-1) / 2  # minus half the squared distance
        order = values.argsort(descending=True, stable=True)
        order = order[lists[order].argsort(stable=True)]
        lists, rows = lists[order], pending[order]
        first = torch.searchsorted(lists, lists)  # where each row's list begins
        place = taken[lists] + torch.arange(len(lists), device=bank.device) - first
        fits = place < room
        members[lists[fits], place[fits]] = rows[fits]
        taken += torch.bincount(lists[fits], minlength=len(taken))
        pending = rows[~fits]
    return members
