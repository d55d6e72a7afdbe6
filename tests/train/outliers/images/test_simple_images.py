"""The cheap synthesisers: what each keeps of an image and what it takes away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from guard.data import load
from guard.errors import ConfigError
from train.outliers.base import IDBatch, PrepareContext, create_synthesiser
from train.outliers.images.phase_mix import mix_phases
from train.outliers.images.smooth_noise import power_law_fields
from train.outliers.images.strokes import distance_to_polyline

CHEAP = (
    "drawn",
    "mask_mix",
    "patch_mix",
    "patch_shuffle",
    "phase_mix",
    "pixel_average",
    "rotation",
    "smooth_noise",
    "strokes",
    "warp",
)


FEW: dict[str, dict[str, int]] = {"drawn": {"pictures": 8}}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(n: int, shape: tuple[int, int, int], classes: int) -> IDBatch:
    images = torch.randint(0, 256, (n, *shape), generator=generator(1), dtype=torch.uint8)
    return IDBatch(images, torch.arange(n) % classes)


@pytest.mark.parametrize("shape", [(8, 8, 3), (9, 12, 1)])
@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.parametrize("name", CHEAP)
def test_any_size_grey_and_two_classes(name: str, classes: int, shape: tuple[int, int, int]) -> None:
    made = create_synthesiser(name, 11, classes, **FEW.get(name, {})).sample(batch(14, shape, classes), generator(3))
    assert made.data.shape == (11, *shape)
    assert made.data.dtype == torch.uint8
    assert made.origin
    if made.parents is not None:
        assert len(made.parents) == 11
        assert made.parents.ge(-1).all()
        assert made.parents.lt(classes).all()


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 10), (8, 5)])
def test_mixed_phases_keep_every_amplitude(height: int, width: int) -> None:
    images = torch.rand(4, 3, 2, height, width, generator=generator(), dtype=torch.float64)
    sources = torch.randint(0, 3, (4, height, width // 2 + 1), generator=generator())
    made = mix_phases(images, sources)
    assert torch.allclose(torch.fft.rfft2(made).abs(), torch.fft.rfft2(images[:, 0]).abs(), atol=1e-9)
    assert not torch.allclose(made, images[:, 0], atol=0.05)
    assert torch.allclose(mix_phases(images, torch.zeros_like(sources)), images[:, 0], atol=1e-9)


def test_a_mosaic_takes_every_patch_from_its_own_place() -> None:
    """Image i is all i: each quarter of a 2 x 2 mosaic is one number, and the four differ in class."""
    images = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 8, 8, 1)
    made = create_synthesiser("patch_mix", 50, 6).sample(IDBatch(images, torch.arange(6)), generator())
    quarters = made.data.reshape(50, 2, 4, 2, 4).permute(0, 1, 3, 2, 4).reshape(50, 4, 16)
    assert quarters.eq(quarters[..., :1]).all()
    assert made.parents is not None
    for quarter, parents in zip(quarters[..., 0], made.parents, strict=True):
        assert sorted(quarter.tolist()) == sorted(parents.tolist())
        assert len(set(parents.tolist())) == 4


def test_two_classes_share_the_patches_evenly() -> None:
    images = torch.arange(2, dtype=torch.uint8)[:, None, None, None].expand(2, 8, 8, 1)
    made = create_synthesiser("patch_mix", 30, 2).sample(IDBatch(images, torch.arange(2)), generator()).data
    assert made.float().mean((1, 2, 3)).eq(0.5).all()


def test_rotations_are_those_of_numpy_and_all_occur() -> None:
    one = torch.randint(0, 256, (1, 6, 6, 3), generator=generator(), dtype=torch.uint8)
    made = create_synthesiser("rotation", 60, 2).sample(IDBatch(one, torch.zeros(1, dtype=torch.int64)), generator())
    turned = [np.rot90(one[0].numpy(), k) for k in (1, 2, 3)]
    counts = [sum(np.array_equal(image, t) for image in made.data.numpy()) for t in turned]
    assert sum(counts) == 60
    assert min(counts) > 8


def test_power_law_fields_fall_as_asked() -> None:
    slopes = torch.tensor([0.0, 1.0, 2.0])
    fields = power_law_fields((3, 200, 32, 32), slopes, generator())
    assert torch.allclose(fields.mean((-2, -1)), torch.zeros(3, 200), atol=1e-4)
    assert torch.allclose(fields.std((-2, -1)), torch.ones(3, 200), atol=1e-4)
    power = torch.fft.rfft2(fields).abs().square().mean(1)
    measured = (power[:, 0, 1].log() - power[:, 0, 8].log()) / np.log(8) / 2  # amplitude ~ f^-slope
    assert torch.allclose(measured, slopes, atol=0.15)


def test_distances_to_a_line_are_those_of_the_formula() -> None:
    points = torch.tensor([[[2.0, 1.0], [2.0, 6.0], [5.0, 6.0]]])

    def slow(y: float, x: float) -> float:
        def segment(a: Tensor, b: Tensor) -> float:
            p = torch.tensor([y, x])
            t = float(((p - a) @ (b - a) / (b - a).square().sum()).clamp(0, 1))
            return float((p - a - t * (b - a)).norm())

        corners = points[0]
        return min(segment(corners[0], corners[1]), segment(corners[1], corners[2]))

    expected = torch.tensor([[slow(y, x) for x in range(9)] for y in range(7)])
    assert torch.allclose(distance_to_polyline(points, 7, 9)[0], expected, atol=1e-5)


def test_strokes_are_two_colours_with_thin_edges() -> None:
    made = create_synthesiser("strokes", 40, 2, strokes=1).sample(batch(4, (32, 32, 3), 2), generator(2)).data
    for image in made.reshape(40, -1, 3):
        _, counts = image.unique(dim=0, return_counts=True)
        assert counts.sort(descending=True).values[:2].sum() > 0.7 * len(image)


def test_smooth_noise_spans_flat_to_contrasty() -> None:
    made = create_synthesiser("smooth_noise", 300, 2).sample(batch(4, (16, 16, 3), 2), generator(2)).data.float()
    contrast = made.std((1, 2)).mean(-1)
    assert contrast.min() < 2
    assert contrast.max() > 30


def context(side: int, folder: Path) -> PrepareContext:
    data = load((np.zeros((8, side, side + 1, 3), np.uint8), np.arange(8) % 2), image_size=(side, side + 1))
    return PrepareContext(None, data, folder, 0, torch.device("cpu"))  # type: ignore[arg-type]


def test_a_grid_of_more_patches_than_pixels_is_refused(tmp_path: Path) -> None:
    """Its patches would be empty, and its outliers the images themselves."""
    create_synthesiser("patch_shuffle", 4, 2, grid=8).check(context(8, tmp_path))
    with pytest.raises(ConfigError, match="cannot cut 8 x 9 pixels into 9 x 9 patches; give grid= at most 8"):
        create_synthesiser("patch_shuffle", 4, 2, grid=9).check(context(8, tmp_path))


def test_noise_of_the_steepest_law_is_finite_and_no_flat_colour() -> None:
    field = power_law_fields((6, 3, 512, 512), torch.full((6,), 10.0), generator())
    assert field.isfinite().all()
    torch.testing.assert_close(field.std((-2, -1)), torch.ones(6, 3))
    with pytest.raises(ConfigError, match="steepest"):
        create_synthesiser("smooth_noise", 4, 2, steepest=10.5)
