"""PixMix's operations against Pillow, one image at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tests.references.pixmix import operation
from train.augmentations.operations import GEOMETRIC, TONAL, varied, warped

OPERATIONS = [op.__name__ for op in GEOMETRIC] + [op.__name__ for op in TONAL]
COUNT = 40


def images(channels: int, height: int, width: int) -> np.ndarray:
    """Smooth and noisy ones, some of them flat, of few levels or one."""
    draw = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    waves = [
        127 + 100 * np.sin(draw.uniform(0, 1, (channels, 1, 1)) * x + draw.uniform(0, 1) * y) for _ in range(COUNT)
    ]
    made = np.stack(waves) * draw.uniform(0.3, 1, (COUNT, 1, 1, 1))
    made[::4] = draw.integers(0, 256, made[::4].shape)
    made[1], made[2], made[3] = 77, 90 + 20 * (made[2] > 127), 255
    return made.astype(np.uint8)


def by_pillow(name: str, image: np.ndarray, strength: float, negative: bool) -> np.ndarray:
    pillow = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
    made = np.asarray(operation(name, pillow, strength, negative))
    return made[None] if made.ndim == 2 else made.transpose(2, 0, 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(32, 32), (19, 30)])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_pillows(name: str, size: tuple[int, int], channels: int) -> None:
    given, u = images(channels, *size), torch.rand(2, COUNT, generator=torch.Generator().manual_seed(2))
    x, apply = torch.from_numpy(given).float(), {op.__name__: op for op in TONAL}
    maps = {op.__name__: op for op in GEOMETRIC}
    made = warped(x, maps[name](u, *size)) if name in maps else apply[name](x, u)
    signs = (u[1] > 0.5).tolist()
    expected = np.stack([by_pillow(name, i, s, n) for i, s, n in zip(given, u[0].tolist(), signs, strict=True)])
    difference = np.abs(made.numpy() - expected)
    assert made.equal(made.round())
    assert (difference > 0).mean() < 0.01, name  # a level where a sum lies at a whole number, or a turned edge
    assert (difference > 1).mean() < 0.002, name
    if name != "colour" or channels == 3:
        assert (expected != given).mean() > 0.05


def test_every_image_goes_through_one_operation_and_each_is_as_likely() -> None:
    """Told by constant images, which only some operations change, and to what."""
    x = torch.full((1300, 3, 9, 9), 200.0)
    made = varied(x, torch.arange(1300), torch.Generator().manual_seed(0))[:, 0, 4, 4]
    darker = ((made < 200 * 0.65) & (made > 20)).sum()  # brightness, and solarize where the threshold is below 200
    assert 100 <= darker <= 200
    assert (made == 192).sum() == 100  # posterize, exactly one in 13
    assert made.unique().numel() > 20  # strengths differ from image to image


@pytest.mark.parametrize("count", [1, 2, 12, 14])
def test_any_number_of_rows(count: int) -> None:
    x = torch.rand(20, 3, 8, 6).mul(255).round()
    made = [varied(x, torch.arange(count), torch.Generator().manual_seed(seed)) for seed in range(60)]
    assert all(m.shape == (count, 3, 8, 6) for m in made)
    assert all(m.min() >= 0 and m.max() <= 255 for m in made)
    assert len({m[0].numpy().tobytes() for m in made}) > 30  # one image meets all of them in time
