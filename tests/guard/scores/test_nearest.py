"""Every search against brute force in float64; the certificate's bound; what is kept of a bank, and for how long."""

from __future__ import annotations

import copy
import importlib
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

from guard.scores import nearest
from guard.scores.nearest import BFloat16Search, FaissSearch, MatmulSearch, Nearest, kth_neighbour, make_search
from guard.scores.nearest.bfloat16 import OUTPUT_ERROR

bfloat16 = importlib.import_module("guard.scores.nearest.bfloat16")
matmul = importlib.import_module("guard.scores.nearest.matmul")

ROWS, WIDTH, QUERIES = 4500, 24, 60


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x)


def dense(count: int, seed: int) -> Tensor:
    """Two knots of points that bfloat16 cannot tell apart: its grid is as wide as they are."""
    knots = 4 * torch.sign(noise(1, WIDTH, seed=9)) * torch.tensor([1.0, -1.0]).repeat(count // 2)[:, None]
    return knots + 0.02 * noise(count, WIDTH, seed=seed)


# name -> (queries (QUERIES, WIDTH), bank (ROWS, WIDTH))
DATA = {
    "noise": (noise(QUERIES, WIDTH, seed=0), noise(ROWS, WIDTH, seed=1)),
    "unit": (unit(noise(QUERIES, WIDTH, seed=0)), unit(noise(ROWS, WIDTH, seed=1))),
    "one direction": (unit(20 + noise(QUERIES, WIDTH, seed=0)), unit(20 + noise(ROWS, WIDTH, seed=1))),
    "far queries": (1e3 * noise(QUERIES, WIDTH, seed=0), noise(ROWS, WIDTH, seed=1)),
    "long tails": (noise(QUERIES, WIDTH, seed=0) ** 5, noise(ROWS, WIDTH, seed=1) ** 5),
    "dense": (dense(QUERIES, 0), dense(ROWS, 1)),
    "copies": (noise(QUERIES, WIDTH, seed=0), noise(45, WIDTH, seed=1).repeat(100, 1)),
    "queries of the bank": (noise(ROWS, WIDTH, seed=1)[:QUERIES], noise(ROWS, WIDTH, seed=1)),
}


def true_distances(queries: Tensor, bank: Tensor, k: int) -> np.ndarray:
    """Squared distance to the k-th neighbour in float64, from the differences."""
    x, y = queries.double().numpy(), bank.double().numpy()
    return np.array([np.partition(((q - y) ** 2).sum(1), k - 1)[k - 1] for q in x])


def check(rows: Tensor, queries: Tensor, bank: Tensor, k: int) -> None:
    """The rows are k-th neighbours, up to float32's rounding of |x|^2 + |y|^2."""
    assert rows.shape == (len(queries),)
    assert rows.dtype == torch.int64
    found = ((queries.double() - bank[rows].double()) ** 2).sum(1).numpy()
    scale = float((queries.double() ** 2).sum(1).max() + (bank.double() ** 2).sum(1).max())
    np.testing.assert_allclose(found, true_distances(queries, bank, k), rtol=1e-5, atol=1e-6 * scale)


def offsets_of(bank: Tensor) -> Tensor:
    return bank.square().sum(1) / -2


@pytest.mark.parametrize("k", [1, 7, 60])
@pytest.mark.parametrize("data", DATA)
class TestEverySearch:
    def test_matmul(self, data: str, k: int) -> None:
        queries, bank = DATA[data]
        check(MatmulSearch().kth(queries, bank, offsets_of(bank), k), queries, bank, k)

    def test_faiss(self, data: str, k: int) -> None:
        pytest.importorskip("faiss")
        queries, bank = DATA[data]
        check(FaissSearch().kth(queries, bank, offsets_of(bank), k), queries, bank, k)

    def test_bfloat16(self, data: str, k: int) -> None:
        queries, bank = DATA[data]
        check(BFloat16Search(bank).kth(queries, bank, offsets_of(bank), k), queries, bank, k)


@pytest.mark.parametrize("data", DATA)
def test_the_bound_of_bfloat16_holds_and_is_not_loose(data: str) -> None:
    queries, bank = (part.double() for part in DATA[data])
    rounded, bound = BFloat16Search(bank.float()).closeness(queries.float())
    mean = bank.float().mean(0).double()
    u, v = queries - mean, bank - mean
    error = (u @ v.T - v.square().sum(1) / 2 - rounded.double()).abs()
    allowed = bound.double()[:, None] + rounded.double().abs() * OUTPUT_ERROR
    assert (error <= allowed).all()
    if data != "dense":  # where 4 is exact in bfloat16 and what is added cancels
        assert (error / allowed).max() > 0.1


def test_unit_rows_need_no_offsets() -> None:
    queries, bank = DATA["unit"]
    for search in (MatmulSearch(), BFloat16Search(bank)):
        check(search.kth(queries, bank, None, 9), queries, bank, 9)


def test_searching_in_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, bank = DATA["unit"]
    searches = (MatmulSearch(), BFloat16Search(bank))
    whole = [search.kth(queries, bank, None, 9) for search in searches]
    monkeypatch.setattr(matmul, "CHUNK", 7 * ROWS)
    monkeypatch.setattr(bfloat16, "CHUNK", 7 * ROWS)
    monkeypatch.setattr(bfloat16, "GATHERED", 1000)
    for search, expected in zip((MatmulSearch(), BFloat16Search(bank)), whole, strict=True):
        assert search.kth(queries, bank, None, 9).equal(expected)


def test_a_query_that_is_not_finite_disturbs_no_other() -> None:
    queries, bank = DATA["noise"]
    broken = queries.clone()
    broken[3] = torch.nan
    for search in (MatmulSearch(), FaissSearch(), BFloat16Search(bank)):
        found = search.kth(broken, bank, offsets_of(bank), 5)
        assert found.min() >= 0
        expected = search.kth(queries, bank, offsets_of(bank), 5)
        assert found[torch.arange(QUERIES) != 3].equal(expected[torch.arange(QUERIES) != 3])


class InTiles(BFloat16Search):
    """A processor whose product computes rows two by two, and loses both where one is not finite, as AMX does."""

    def closeness(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        product, bound = super().closeness(queries)
        lost = product.isnan().any(1)
        beside = torch.arange(len(lost)) ^ 1
        lost |= lost[beside.clamp_max(len(lost) - 1)]
        return product.masked_fill(lost[:, None], torch.nan), bound


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("k", [1, 5, 60])
def test_a_product_that_loses_a_query_beside_one_that_is_not_finite(k: int, value: float) -> None:
    queries, bank = DATA["noise"]
    broken = queries.clone()
    broken[[3, 40, 41]] = value
    search = InTiles(bank)
    rows = search.kth(broken, bank, offsets_of(bank), k)
    assert search.closeness(broken)[0][2].isnan().all()  # a finite query's, beside row 3
    assert rows.min() >= 0
    assert rows.max() < len(bank)
    finite = broken.isfinite().all(1)
    check(rows[finite], queries[finite], bank, k)


def test_a_query_beyond_the_range_of_bfloat16_is_searched_exactly() -> None:
    bank = DATA["noise"][1].clone()
    bank[7, 0] = 1.0
    query = torch.zeros(2, WIDTH)
    query[1, 0] = torch.finfo(torch.float32).max  # bfloat16 rounds it to infinity
    expected = (bank @ query[1]).argmax()
    assert BFloat16Search(bank).kth(query, bank, offsets_of(bank), 1)[1] == expected


def test_a_bank_with_a_row_that_is_not_finite_is_searched_exactly() -> None:
    queries, bank = DATA["noise"][0], DATA["noise"][1].clone()
    bank[11, 2] = torch.nan
    offsets = offsets_of(bank)
    assert BFloat16Search(bank).kth(queries, bank, offsets, 5).equal(kth_neighbour(queries, bank, offsets, 5))


def test_faiss_keeps_its_thread_count_and_works_with_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    faiss = pytest.importorskip("faiss")
    used = []
    search = faiss.knn
    monkeypatch.setattr(faiss, "knn", lambda *a, **k: (used.append(faiss.omp_get_max_threads()), search(*a, **k))[1])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    before = faiss.omp_get_max_threads()
    queries, bank = DATA["unit"]
    FaissSearch().kth(queries, bank, None, 2)
    assert used == [3]
    assert faiss.omp_get_max_threads() == before


class TestTheChoice:
    def test_small_banks_and_other_precisions_go_without(self) -> None:
        assert isinstance(make_search(noise(1000, 4, seed=0), 1), MatmulSearch)
        assert isinstance(make_search(noise(ROWS, 4, seed=0), 50), MatmulSearch)
        assert isinstance(make_search(noise(ROWS, 4, seed=0).double(), 1), MatmulSearch)

    def test_large_banks_take_what_the_machine_has(self, monkeypatch: pytest.MonkeyPatch) -> None:
        bank = noise(ROWS, 4, seed=0)
        monkeypatch.setattr(nearest, "cpu_multiplies_bfloat16", lambda: True)
        assert isinstance(make_search(bank, 1), BFloat16Search)
        monkeypatch.setattr(nearest, "cpu_multiplies_bfloat16", lambda: False)
        monkeypatch.setattr(nearest, "_has_faiss", lambda: True)
        assert isinstance(make_search(bank, 1), FaissSearch)
        monkeypatch.setattr(nearest, "_has_faiss", lambda: False)
        assert isinstance(make_search(bank, 1), MatmulSearch)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every rounded copy that is made of a bank, on any CPU."""
    count: list[int] = []

    class Counted(BFloat16Search):
        def __init__(self, bank: Tensor) -> None:
            count.append(len(bank))
            super().__init__(bank)

    monkeypatch.setattr(nearest, "cpu_multiplies_bfloat16", lambda: True)
    monkeypatch.setattr(nearest, "BFloat16Search", Counted)
    return count


class TestWhatIsKept:
    def ask(self, kept: Nearest, bank: Tensor) -> None:
        queries = DATA["noise"][0]
        check(kept.kth(queries, bank, offsets_of(bank), 3), queries, bank, 3)

    def test_it_serves_many_calls(self, made: list[int]) -> None:
        kept, bank = Nearest(), DATA["noise"][1].clone()
        for _ in range(3):
            self.ask(kept, bank)
        assert len(made) == 1

    def test_a_change_in_place_is_seen(self, made: list[int]) -> None:
        kept, bank = Nearest(), DATA["noise"][1].clone()
        self.ask(kept, bank)
        bank.mul_(0.5)
        self.ask(kept, bank)
        with torch.inference_mode():
            bank[:4000] += 3
            self.ask(kept, bank)
        assert len(made) == 3

    def test_another_bank_is_seen(self, made: list[int]) -> None:
        kept = Nearest()
        for seed in range(3):
            self.ask(kept, noise(ROWS, WIDTH, seed=seed))  # the last one is gone: its address may be taken again
        assert len(made) == 3

    def test_a_bank_whose_changes_are_not_counted_is_searched_without(self, made: list[int]) -> None:
        kept = Nearest()
        with torch.inference_mode():
            bank = DATA["noise"][1].clone()
            self.ask(kept, bank)
            bank.mul_(0.5)
            self.ask(kept, bank)
        assert made == []

    def test_copies_start_without(self, made: list[int]) -> None:
        kept, bank = Nearest(), DATA["noise"][1].clone()
        self.ask(kept, bank)
        for other in (copy.deepcopy(kept), pickle.loads(pickle.dumps(kept))):
            self.ask(other, bank)
        assert len(made) == 3


def test_no_queries_have_no_neighbours() -> None:
    assert Nearest().kth(torch.zeros(0, 4), noise(100, 4, seed=0), None, 5).shape == (0,)


def test_it_is_the_plain_product_in_a_graph() -> None:
    """Nothing of the machine may end up in an exported graph."""
    queries, bank = DATA["unit"]

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("bank", bank)
            self.nearest = Nearest()

        def forward(self, x: Tensor) -> Tensor:
            return self.nearest.kth(x, self.bank, None, 5)

    module = Module()
    graph = torch.export.export(module, (queries,), dynamic_shapes=({0: torch.export.Dim("n")},))
    calls = {str(node.target) for node in graph.graph.nodes if node.op == "call_function"}
    assert calls == {"aten.linear.default", "aten.topk.default", "<built-in function getitem>"} | {
        "aten.slice.Tensor",
        "aten.select.int",
    }
    assert graph.module()(queries).equal(kth_neighbour(queries, bank, None, 5))
