"""The ring buffer with running sums against a deque per class."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.references.naive_queue import NaiveQueue
from train.outliers.features.feature_queue import FeatureQueue

CLASSES, WIDTH = 3, 5


def batches(count: int, size: int, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    g = torch.Generator().manual_seed(seed)
    chance = torch.tensor([0.7, 0.2, 0.1])
    return [
        (10 + torch.randn(size, WIDTH, generator=g), torch.multinomial(chance, size, replacement=True, generator=g))
        for _ in range(count)
    ]


def held(queue: FeatureQueue, label: int) -> np.ndarray:
    """The features of a class, sorted (the ring's rotation does not matter)."""
    rows = queue.features[label][: int(queue.counts()[label])].numpy()
    return rows[np.lexsort(rows.T)]


@pytest.mark.parametrize("ring", [2, 7, 100])
@pytest.mark.parametrize("batch", [1, 4, 30])  # 30 of which 21 of one class: more than a ring of 7 holds
def test_it_holds_what_a_deque_holds(ring: int, batch: int) -> None:
    queue, naive = FeatureQueue(CLASSES, WIDTH, ring), NaiveQueue(CLASSES, ring)
    for features, labels in batches(60, batch):
        queue.push(features, labels)
        naive.push(features.numpy(), labels.numpy())
    assert queue.counts().tolist() == [len(rows) for rows in naive.rows]
    for label in range(CLASSES):
        expected = np.float32(np.stack(naive.rows[label]))
        np.testing.assert_array_equal(held(queue, label), expected[np.lexsort(expected.T)])
    means, covariance = queue.gaussians()
    expected_means, expected_covariance = naive.gaussians()
    np.testing.assert_allclose(means.numpy(), expected_means, rtol=1e-12)
    np.testing.assert_allclose(covariance.numpy(), expected_covariance, rtol=1e-9, atol=1e-12)


def test_running_sums_do_not_drift() -> None:
    queue = FeatureQueue(CLASSES, WIDTH, 20)
    for features, labels in batches(3000, 8):
        queue.push(100 * features, labels)
    before = [value.clone() for value in queue.gaussians()]
    queue.resum()
    for running, summed in zip(before, queue.gaussians(), strict=True):
        torch.testing.assert_close(running, summed, rtol=1e-9, atol=1e-7)


def test_a_batch_of_one_class_larger_than_the_ring_keeps_its_last() -> None:
    queue = FeatureQueue(2, 1, 3)
    queue.push(torch.arange(10.0)[:, None], torch.zeros(10, dtype=torch.int64))
    assert sorted(queue.features[0, :, 0].tolist()) == [7, 8, 9]
    assert queue.counts().tolist() == [3, 0]


def test_full_means_every_class() -> None:
    queue = FeatureQueue(2, 1, 2)
    queue.push(torch.ones(5, 1), torch.tensor([0, 0, 0, 0, 1]))
    assert not queue.full()
    queue.push(torch.ones(1, 1), torch.tensor([1]))
    assert queue.full()


def test_a_class_without_features_has_mean_zero_and_adds_nothing() -> None:
    queue = FeatureQueue(2, WIDTH, 50)
    rows = torch.randn(40, WIDTH)
    queue.push(rows, torch.zeros(40, dtype=torch.int64))
    means, covariance = queue.gaussians()
    assert means[1].equal(torch.zeros(WIDTH, dtype=torch.float64))
    np.testing.assert_allclose(covariance.numpy(), np.cov(rows.double().numpy().T, bias=True), rtol=1e-9, atol=1e-12)


def test_a_checkpoint_restores_it() -> None:
    queue, other = (FeatureQueue(CLASSES, WIDTH, 7) for _ in range(2))
    stream = batches(20, 6)
    for features, labels in stream[:10]:
        queue.push(features, labels)
    other.load_state_dict(queue.state_dict())
    for features, labels in stream[10:]:
        queue.push(features, labels)
        other.push(features, labels)
    assert all(torch.equal(a, b) for a, b in zip(queue.state_dict().values(), other.state_dict().values(), strict=True))


def test_features_are_kept_without_their_history() -> None:
    queue = FeatureQueue(2, 2, 3)
    features = torch.ones(2, 2, requires_grad=True, dtype=torch.bfloat16)
    queue.push(features * 2, torch.tensor([0, 1]))
    assert not queue.features.requires_grad
    assert queue.features.dtype == torch.float32


@pytest.mark.parametrize("batch", [1, 4, 30])
def test_each_class_has_a_ring_of_its_own_size(batch: int) -> None:
    sizes = (9, 4, 1)
    queue, naive = FeatureQueue(CLASSES, WIDTH, sizes), [NaiveQueue(CLASSES, size) for size in sizes]
    for features, labels in batches(40, batch):
        queue.push(features, labels)
        for each in naive:
            each.push(features.numpy(), labels.numpy())
    assert bool(queue.full())
    rows = [np.float32(np.stack(naive[label].rows[label])) for label in range(CLASSES)]
    for label, expected in enumerate(rows):
        np.testing.assert_array_equal(held(queue, label), expected[np.lexsort(expected.T)])
    means, covariance = queue.gaussians()
    centred = np.concatenate([np.float64(part) - np.float64(part).mean(0) for part in rows])
    np.testing.assert_allclose(means.numpy(), [np.float64(part).mean(0) for part in rows], rtol=1e-12)
    np.testing.assert_allclose(covariance.numpy(), centred.T @ centred / len(centred), rtol=1e-9, atol=1e-12)


def test_a_checkpoint_of_equal_rings_is_read() -> None:
    """Earlier versions kept as many features of each class as of the smallest."""
    before, after = FeatureQueue(CLASSES, WIDTH, 4), FeatureQueue(CLASSES, WIDTH, (9, 6, 4))
    (first, second) = batches(2, 60)
    before.push(*first)
    after.load_state_dict(before.state_dict())
    for queue in (before, after):
        queue.push(*second)
    for key, value in before.state_dict().items():
        assert torch.equal(value, after.state_dict()[key]), key
