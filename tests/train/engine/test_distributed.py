"""Several processes: shares that are a partition, and an order in which one goes first."""

from __future__ import annotations

import threading

import pytest

from train.engine.distributed import Processes, processes


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert processes() == Processes(0, 1)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert processes() == Processes(0, 1)


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_shares_divide_any_numbers(world: int) -> None:
    numbers = [0, 1, 4, 5, 6, 9, 13]
    shares = [Processes(rank, world).share(numbers) for rank in range(world)]
    assert sorted(n for share in shares for n in share) == numbers
    assert Processes(0, world).share([4]) == ([4] if 4 % world == 0 else [])


def test_the_first_goes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    barrier = threading.Barrier(3, timeout=10)
    monkeypatch.setattr(Processes, "wait", lambda _: barrier.wait())
    order: list[int] = []

    def run(rank: int) -> None:
        with Processes(rank, 3).main_process_first():
            order.append(rank)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in (2, 1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert order[0] == 0
    assert sorted(order) == [0, 1, 2]
