"""Outliers in pixel space: averages and shuffled patches."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from train.outliers.base import IDBatch, create_synthesiser
from train.outliers.images import PatchShuffle, PixelAverage
from train.outliers.images.patch_shuffle import shuffle_patches
from train.outliers.images.pixel_average import pick_different_classes


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def batch() -> IDBatch:
    images = torch.randint(0, 256, (24, 8, 8, 3), generator=generator(), dtype=torch.uint8)
    return IDBatch(images, torch.arange(24) % 6)


# ------------------------------------------------------------------------------------------------- pixel averages


@pytest.mark.parametrize("k", [2, 4, 6])
def test_the_k_images_have_different_classes(batch: IDBatch, k: int) -> None:
    index, valid = pick_different_classes(batch.labels, 6, 500, k, generator())
    assert index.shape == (500, k)
    assert valid.all()
    assert all(len(set(row)) == k for row in batch.labels[index].tolist())


def test_every_image_is_picked_equally_often(batch: IDBatch) -> None:
    index, _ = pick_different_classes(batch.labels, 6, 12_000, 2, generator())
    counts = np.bincount(index.flatten().numpy(), minlength=24)
    assert np.abs(counts - 1000).max() < 4 * np.sqrt(1000)


def test_more_images_than_classes_takes_every_class_once(batch: IDBatch) -> None:
    index, valid = pick_different_classes(batch.labels, 6, 50, 10, generator())
    for row, counts in zip(index, valid, strict=True):
        assert sorted(batch.labels[row[counts]].tolist()) == list(range(6))


def test_a_batch_that_lacks_classes_and_is_smaller_than_k() -> None:
    labels = torch.tensor([4, 4, 2])
    index, valid = pick_different_classes(labels, 10, 20, 10, generator())
    assert index.shape[1] == 3
    assert valid.sum(-1).tolist() == [2] * 20
    assert all(set(labels[row[ok]].tolist()) == {2, 4} for row, ok in zip(index, valid, strict=True))


@pytest.mark.parametrize(("n", "k"), [(8, 3), (8, 20), (2, 2)])
def test_a_batch_of_one_class_mixes_different_images_of_it(n: int, k: int) -> None:
    """An image alone would be an outlier that is in-distribution."""
    index, valid = pick_different_classes(torch.full((n,), 3), 10, 30, k, generator())
    assert valid.all()
    assert all(len(set(row)) == min(k, n) for row in index.tolist())


@pytest.mark.parametrize("name", ["pixel_average", "phase_mix", "patch_mix", "mask_mix"])
def test_no_mix_is_an_image_itself(name: str) -> None:
    images = torch.randint(0, 256, (9, 12, 12, 3), generator=generator(), dtype=torch.uint8)
    made = create_synthesiser(name, 20, 2).sample(IDBatch(images, torch.zeros(9, dtype=torch.int64)), generator(1)).data
    assert (made[:, None].float() - images.float()).abs().mean((2, 3, 4)).min() > 5


@pytest.mark.parametrize("k", [2, 3, 6, 10])
def test_the_average_is_the_exact_mean_rounded(batch: IDBatch, k: int) -> None:
    made = PixelAverage(40, 6, k=k).sample(batch, generator(5)).data
    index, valid = pick_different_classes(batch.labels, 6, 40, k, generator(5))
    for i in range(40):
        chosen = batch.images[index[i][valid[i]]].double().numpy()
        np.testing.assert_array_equal(made[i].numpy(), np.rint(chosen.mean(0)))
    assert made.dtype == torch.uint8


def test_white_stays_white() -> None:
    white = IDBatch(torch.full((9, 4, 4, 1), 255, dtype=torch.uint8), torch.arange(9))
    assert PixelAverage(5, 9, k=7).sample(white, generator()).data.eq(255).all()


# ------------------------------------------------------------------------------------------------ shuffled patches


def patches(image: torch.Tensor, grid: int) -> Counter[bytes]:
    rows, columns = image.shape[0] // grid, image.shape[1] // grid
    return Counter(
        image[r * rows : (r + 1) * rows, c * columns : (c + 1) * columns].contiguous().numpy().tobytes()
        for r in range(grid)
        for c in range(grid)
    )


@pytest.mark.parametrize("shape", [(8, 8, 3), (16, 12, 1), (9, 10, 3)])
def test_the_patches_are_the_same_in_another_order(shape: tuple[int, ...]) -> None:
    images = torch.randint(0, 256, (20, *shape), generator=generator(), dtype=torch.uint8)
    before = images.clone()
    shuffled = shuffle_patches(images, 4, generator(1))
    assert images.equal(before)
    inner = slice(0, shape[0] // 4 * 4), slice(0, shape[1] // 4 * 4)
    orders = set()
    for image, other in zip(images, shuffled, strict=True):
        assert not image.equal(other)
        assert patches(image[inner], 4) == patches(other[inner], 4)
        assert other[inner[0].stop :].equal(image[inner[0].stop :])  # what is beyond the last whole patch stays
        assert other[:, inner[1].stop :].equal(image[:, inner[1].stop :])
        first = other[: shape[0] // 4, : shape[1] // 4].contiguous().numpy().tobytes()
        orders.add(list(patches(image[inner], 4)).index(first))
    assert len(orders) > 5  # each image has an order of its own


def test_it_takes_as_many_as_asked_from_the_batch(batch: IDBatch) -> None:
    made = PatchShuffle(50, 6, grid=2).sample(batch, generator()).data
    originals = {tuple(sorted(patches(image, 2).items())) for image in batch.images}
    assert made.shape == (50, 8, 8, 3)
    found = {tuple(sorted(patches(image, 2).items())) for image in made}
    assert found <= originals
    assert len(found) > 12
