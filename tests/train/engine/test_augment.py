"""Batched augmentation against one image at a time."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from train.engine.augment import augment, usual_shift  # noqa: E402

IMAGES = torch.randint(0, 256, (64, 12, 9, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def all_outcomes(image: np.ndarray, pad: int, flip: bool) -> dict[tuple[int, int, bool], np.ndarray]:
    """Every crop of the padded image and of its mirror image, by explicit slicing."""
    height, width, _ = image.shape
    outcomes = {}
    for mirrored in (False, True) if flip else (False,):
        padded = np.pad(image[:, ::-1] if mirrored else image, ((pad, pad), (pad, pad), (0, 0)))
        for y in range(2 * pad + 1):
            for x in range(2 * pad + 1):
                outcomes[y, x, mirrored] = padded[y : y + height, x : x + width]
    return outcomes


@pytest.mark.parametrize(("pad", "flip"), [(0, True), (2, False), (2, True), (1, True)])
def test_each_image_is_one_of_its_crops_and_all_crops_occur(pad: int, flip: bool) -> None:
    batch = IMAGES[:1].expand(2000, -1, -1, -1)
    result = augment(batch, generator(0), pad=pad, flip=flip).numpy()
    outcomes = all_outcomes(IMAGES[0].numpy(), pad, flip)
    names = {value.tobytes(): key for key, value in outcomes.items()}
    assert len(names) == len(outcomes)
    seen = [names[image.tobytes()] for image in result]  # KeyError: something that is not a crop
    counts = np.array([seen.count(key) for key in outcomes])
    expected = len(result) / len(outcomes)
    assert ((counts - expected) ** 2 / expected).sum() < len(outcomes) + 5 * np.sqrt(2 * len(outcomes))  # uniform


def test_images_in_a_batch_are_treated_separately_and_in_place() -> None:
    result = augment(IMAGES, generator(3), pad=3, flip=True).numpy()
    chosen = []
    for image, got in zip(IMAGES.numpy(), result, strict=True):
        matches = [key for key, value in all_outcomes(image, 3, True).items() if np.array_equal(value, got)]
        assert len(matches) == 1
        chosen.append(matches[0])
    assert len(set(chosen)) > 30


def test_generator_decides() -> None:
    one = augment(IMAGES, generator(5), pad=2, flip=True)
    assert torch.equal(one, augment(IMAGES, generator(5), pad=2, flip=True))
    assert not torch.equal(one, augment(IMAGES, generator(6), pad=2, flip=True))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    augment(IMAGES, generator(5), pad=2, flip=True)
    assert torch.equal(before, torch.get_rng_state())


def test_nothing_to_do_and_input_untouched() -> None:
    copy = IMAGES.clone()
    assert augment(IMAGES, generator(0), pad=0, flip=False) is IMAGES
    result = augment(IMAGES, generator(0), pad=1, flip=True)
    assert result.dtype == torch.uint8
    assert result.shape == IMAGES.shape
    assert torch.equal(IMAGES, copy)


def test_images_of_any_size_are_shifted_as_published() -> None:
    """CIFAR's 32 pixels and ImageNet's 224 alike by 4; smaller ones by an eighth."""
    assert {side: usual_shift(side) for side in (8, 13, 16, 28, 32, 64, 224)} == {
        8: 1, 13: 1, 16: 2, 28: 3, 32: 4, 64: 4, 224: 4,
    }  # fmt: skip
