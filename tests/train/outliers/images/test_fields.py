"""Smooth fields, and the outliers that are made of them."""

from __future__ import annotations

import pytest
import torch
from scipy.ndimage import map_coordinates

from guard.errors import ConfigError
from train.outliers.base import IDBatch, create_synthesiser
from train.outliers.images.fields import smooth_fields


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_fields_have_no_mean_and_unit_deviation_and_finer_ones_change_faster() -> None:
    cells = torch.tensor([3] * 40 + [9] * 40)
    fields = smooth_fields(cells, 24, 30, 9, generator())
    assert fields.shape == (80, 24, 30)
    assert fields.mean((1, 2)).abs().max() < 1e-5
    assert torch.allclose(fields.std((1, 2)), torch.ones(80), atol=1e-4)
    slope = fields.diff(dim=2).abs().mean((1, 2))
    assert slope[40:].mean() > 2.5 * slope[:40].mean()  # 8 steps of the grid for 2


def test_a_field_goes_through_the_numbers_of_its_grid() -> None:
    """With as many pixels as numbers the field is the grid, but for mean and deviation."""
    field = smooth_fields(torch.tensor([6]), 6, 6, 6, generator(3))[0]
    grid = torch.randn(1, 1, 6, 6, generator=generator(3))[0, 0]
    expected = (grid - grid.mean()) / grid.std()
    assert torch.allclose(field, expected, atol=1e-5)


def test_warps_take_every_pixel_from_somewhere_in_their_image() -> None:
    """Pixel values are coordinates: what a warp shows at a place is where it took it from."""
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    image = torch.stack([4 * rows, 4 * columns, torch.zeros_like(rows)], -1).to(torch.uint8)[None]
    warp = create_synthesiser("warp", 60, 2, least=0.2, most=0.2)
    made = warp.sample(IDBatch(image, torch.zeros(1, dtype=torch.int64)), generator(1))
    moved = made.data.float()[..., :2] / 4 - torch.stack([rows, columns], -1)  # in pixels
    # 0.2 half sides of 16 pixels in each direction, less what the borders turn back
    assert 1.8 < float(moved.std((1, 2)).mean()) < 3.3
    assert made.data[..., 2].eq(0).all()
    assert made.parents is not None
    assert made.parents.eq(0).all()
    smooth = made.data.float().diff(dim=1)[..., 0].abs().median()
    assert smooth <= 8  # neighbours come from neighbouring places


def test_a_warp_is_what_scipy_takes_from_the_same_places() -> None:
    image = torch.randint(0, 256, (1, 16, 20, 1), generator=generator(2), dtype=torch.uint8)
    made = create_synthesiser("warp", 1, 2, least=0.3, most=0.3, coarse=4, fine=4)
    bent = made.sample(IDBatch(image, torch.zeros(1, dtype=torch.int64)), generator(5)).data[0, :, :, 0]
    again = generator(5)
    torch.rand(3, 1, generator=again)
    across, down = (smooth_fields(torch.tensor([4]), 16, 20, 4, again)[0] for _ in range(2))
    rows = torch.arange(16)[:, None] + 0.3 * down * 8
    columns = torch.arange(20)[None, :] + 0.3 * across * 10
    places = torch.stack(torch.broadcast_tensors(rows, columns)).numpy()
    expected = map_coordinates(image[0, :, :, 0].double().numpy(), places, order=1, mode="reflect")
    assert abs(bent.double().numpy() - expected).max() <= 1


def test_pieces_are_of_the_images_and_soft_only_at_their_edges() -> None:
    """Image i is all 40 i: hard pieces show these numbers alone, and the parents are those that occur."""
    images = (40 * torch.arange(6, dtype=torch.uint8))[:, None, None, None].expand(6, 16, 16, 1)
    batch = IDBatch(images, torch.arange(6))
    hard = create_synthesiser("mask_mix", 50, 6, sharpness=1e4).sample(batch, generator())
    assert hard.parents is not None
    for image, parents in zip(hard.data, hard.parents, strict=True):
        values, counts = image.unique(return_counts=True)
        usual = {int(v) // 40 for v, n in zip(values, counts, strict=True) if n > 3}
        assert usual <= set(parents.tolist())
        assert len(set(parents.tolist())) == 3
    soft = create_synthesiser("mask_mix", 50, 6, sharpness=2.0).sample(batch, generator())
    assert soft.data.unique().numel() > hard.data.unique().numel()


def test_two_classes_make_pieces_of_two() -> None:
    images = (200 * torch.arange(2, dtype=torch.uint8))[:, None, None, None].expand(2, 8, 8, 3)
    made = create_synthesiser("mask_mix", 20, 2).sample(IDBatch(images, torch.arange(2)), generator()).data.float()
    assert 60 < made.mean() < 140
    assert made.flatten(1).std(1).min() > 20


@pytest.mark.parametrize(("low", "high"), [({"least": 0.5}, "most"), ({"coarse": 9}, "fine")])
def test_a_range_the_wrong_way_round_is_refused(low: dict[str, float], high: str) -> None:
    with pytest.raises(ConfigError, match=f"at most {high}.*swap the two"):
        create_synthesiser("warp", 4, 2, **low)
