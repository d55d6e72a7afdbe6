from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest

from serving.batching import MicroBatcher


def image(value: int) -> np.ndarray:
    return np.full((2, 2, 3), value, np.uint8)


class Recorder:
    """Answers each image's first pixel; holds the first call until released, so that others must wait."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.release = threading.Event()

    def run(self, batch: np.ndarray) -> list[int]:
        values = batch[:, 0, 0, 0].tolist()
        self.batches.append(values)
        assert self.release.wait(5)
        if 13 in values:
            raise RuntimeError("thirteen")
        return values


async def submitted(batcher: MicroBatcher[int], values: list[int]) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(batcher.submit(image(value))) for value in values]
    await asyncio.sleep(0.05)
    return tasks


def test_what_waits_during_a_run_is_the_next_batch_and_everybody_gets_their_own() -> None:
    recorder = Recorder()

    async def scenario() -> list[int]:
        async with MicroBatcher(recorder.run, max_batch=3) as batcher:
            tasks = await submitted(batcher, [0]) + await submitted(batcher, [1, 2, 3, 4])
            recorder.release.set()
            return await asyncio.gather(*tasks)

    assert asyncio.run(scenario()) == [0, 1, 2, 3, 4]
    assert recorder.batches == [[0], [1, 2, 3], [4]]


def test_an_error_reaches_its_own_caller_only() -> None:
    recorder = Recorder()

    async def scenario() -> list[int | BaseException]:
        async with MicroBatcher(recorder.run, max_batch=8) as batcher:
            tasks = await submitted(batcher, [0]) + await submitted(batcher, [1, 13, 2])
            recorder.release.set()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            return [*answers, await batcher.submit(image(7))]

    *answers, after = asyncio.run(scenario())
    assert [answers[0], answers[1], answers[3], after] == [0, 1, 2, 7]
    assert isinstance(answers[2], RuntimeError)


def test_a_caller_that_gave_up_is_not_scored() -> None:
    recorder = Recorder()

    async def scenario() -> int:
        async with MicroBatcher(recorder.run, max_batch=8) as batcher:
            first, second, third = await submitted(batcher, [0]) + await submitted(batcher, [1, 2])
            second.cancel()
            await asyncio.sleep(0)
            recorder.release.set()
            await first
            return await third

    assert asyncio.run(scenario()) == 2
    assert recorder.batches == [[0], [2]]


def test_waiting_gathers_a_trickle() -> None:
    recorder = Recorder()
    recorder.release.set()

    async def scenario() -> None:
        async with MicroBatcher(recorder.run, max_batch=8, wait_s=0.3) as batcher:
            await asyncio.gather(*await submitted(batcher, [0]), *await submitted(batcher, [1]))

    asyncio.run(scenario())
    assert recorder.batches == [[0, 1]]


def test_a_runtime_that_answers_too_few_is_an_error_and_not_a_hang() -> None:
    async def scenario() -> None:
        async with MicroBatcher(lambda batch: [], max_batch=8) as batcher:
            await asyncio.wait_for(batcher.submit(image(0)), 5)

    with pytest.raises(ValueError, match="shorter"):
        asyncio.run(scenario())


def test_what_takes_a_moment_is_run_on_the_event_loop_once_that_is_known() -> None:
    threads: list[str] = []

    def run(batch: np.ndarray) -> list[int]:
        threads.append(threading.current_thread().name)
        until = time.thread_time() + (0.1 if 9 in batch else 0.0)
        while time.thread_time() < until:
            pass
        return [int(value) for value in batch[:, 0, 0, 0]]

    async def scenario() -> list[int]:
        async with MicroBatcher(run, max_batch=8, here_s=0.05) as batcher:
            return [await batcher.submit(image(value)) for value in (1, 2, 9, 9, 9, 9, 9, 9, 9, 9, 3)]

    assert asyncio.run(scenario()) == [1, 2, 9, 9, 9, 9, 9, 9, 9, 9, 3]
    here = ["guard-run" not in name for name in threads]
    assert here[:2] == [False, True]  # nothing is known before the first
    assert here[-1] is False  # it has become slow


def test_a_lone_image_is_run_at_once_where_runs_are_short() -> None:
    """Not before it is known how long they take, nor while anything waits or runs, nor where they are long."""
    recorder = Recorder()
    recorder.release.set()

    async def scenario(alone_s: float) -> list[list[int]]:
        async with MicroBatcher(recorder.run, max_batch=4, alone_s=alone_s) as batcher:
            found = [batcher.at_once(image(1))]
            await batcher.submit(image(2))
            await asyncio.sleep(0.01)
            found.append(batcher.at_once(image(3)))
            waiting = asyncio.create_task(batcher.submit(image(4)))
            await asyncio.sleep(0)
            found.append(batcher.at_once(image(5)))
            await waiting
            return found

    assert asyncio.run(scenario(10.0)) == [[], [3], []]
    assert recorder.batches == [[2], [3], [4]]
    assert asyncio.run(scenario(0.0)) == [[], [], []]


def test_an_error_of_a_lone_image_is_its_callers() -> None:
    recorder = Recorder()
    recorder.release.set()

    async def scenario() -> int:
        async with MicroBatcher(recorder.run, max_batch=4, alone_s=10.0) as batcher:
            await batcher.submit(image(2))
            await asyncio.sleep(0.01)
            with pytest.raises(RuntimeError, match="thirteen"):
                batcher.at_once(image(13))
            return await batcher.submit(image(7))

    assert asyncio.run(scenario()) == 7
