"""What every registered step keeps, and how chains of them are written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import guard
from guard.errors import ConfigError, UnknownNameError
from guard.requests import TrainRequest
from tests.conftest import Arrays
from tests.structure.project_files import ROOT
from tests.train.engine.runs import Tiny, assert_equal
from tests.train.engine.test_no_waiting import NoWaiting
from train.augmentations.base import AugmentContext, Chain, chain, list_steps, step_class
from train.augmentations.host import HostStep
from train.engine.augment import augment
from train.engine.resized_crop import resized_crop

SIZES = [(6, 16, 12, 3), (5, 11, 17, 1), (1, 9, 9, 3), (2, 8, 8, 1)]
CHAINS = [
    *list_steps(),
    "none",
    "crop+flip",
    "crop+flip+pixmix+cutout",
    "resized_crop+cutout",
    "flip+crop",
    "pixmix+cutmix",
]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(size: tuple[int, int, int, int]) -> Tensor:
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator(1))


def chain_for(how: str, size: tuple[int, int, int, int]) -> Callable[[Tensor, torch.Generator], Tensor]:
    _, height, width, channels = size
    chain = Chain(how, AugmentContext(height, width, channels, (100.0,) * channels, 0, torch.device("cpu")))

    def apply(given: Tensor, generator: torch.Generator) -> Tensor:
        made = chain(given, generator)
        return made if chain.mixing is None or not len(made) else chain.mixing(made, generator)

    return apply


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("how", CHAINS)
def test_each_keeps_shape_and_type_and_draws_from_its_generator_alone(
    how: str, size: tuple[int, int, int, int]
) -> None:
    given, apply = images(size), chain_for(how, size)
    before = given.clone()
    torch.manual_seed(5)
    made = apply(given, generator())
    after = torch.rand(1)
    torch.manual_seed(6)
    again = chain_for(how, size)(given, generator())
    assert (made.shape, made.dtype) == (given.shape, torch.uint8)
    assert made.is_contiguous()
    assert made.equal(again)
    torch.manual_seed(5)
    assert torch.rand(1).equal(after)  # the global generator stands where it stood
    assert given.equal(before)  # the images are the data set's own
    others = [apply(given, generator(seed)) for seed in range(1, 12)]
    assert (how == "none") == all(other.equal(given) for other in others)
    if how != "none":
        assert any(not other.equal(made) for other in others)
    assert apply(given[:0], generator()).shape == (0, *size[1:])


@pytest.mark.parametrize("name", [name for name in list_steps() if not issubclass(step_class(name), HostStep)])
def test_no_step_waits_for_the_device(name: str) -> None:
    apply, given = chain_for(name, SIZES[0]), images(SIZES[0])
    with NoWaiting():
        apply(given, generator())


@pytest.mark.parametrize("name", list_steps())
def test_every_step_says_what_it_does(name: str) -> None:
    kind = step_class(name)
    assert kind.summary.endswith(".")
    assert kind.source or not kind.elaborate
    assert f" {name}" in str(TrainRequest.model_fields["augment"].description)
    assert f"`{name}`" in (ROOT / "docs/augmentations.md").read_text()
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz_")


def test_what_a_value_stands_for() -> None:
    names = {how: [kind.name for kind in chain(how)] for how in CHAINS}
    assert names["none"] == []
    for name in list_steps():
        assert names[name] == (["crop", "flip", name] if step_class(name).elaborate else [name])
    assert names["crop+flip+pixmix+cutout"] == ["crop", "flip", "pixmix", "cutout"]
    assert [kind.name for kind in chain("crop+cutout")] == ["crop", "cutout"]


def test_older_values_are_to_the_bit_what_they_were() -> None:
    given = images((7, 32, 32, 3))
    assert chain_for("crop", (7, 32, 32, 3))(given, generator()).equal(augment(given, generator(), pad=4, flip=False))
    both = augment(given, generator(), pad=4, flip=True)
    assert chain_for("crop+flip", (7, 32, 32, 3))(given, generator()).equal(both)
    assert chain_for("resized_crop", (7, 32, 32, 3))(given, generator()).equal(resized_crop(given, generator()))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cutot", r"unknown augmentation 'cutot'; did you mean 'cutout'"),
        ("crop+flip+pixmx", r"'pixmx'; did you mean 'pixmix'.*joined by \+"),
        ("crop++flip", r"unknown augmentation ''"),
        ("none+cutout", "joins 'none' with steps; give 'none' alone"),
        ("crop+flip+crop", "names 'crop' twice"),
        ("cutmix+crop", "'cutmix' mixes labels by area; name it last"),
        ("auto+cutout", "unknown augmentation 'auto'"),
    ],
)
def test_a_wrong_chain_is_refused_before_anything_is_read(how: str, message: str) -> None:
    with pytest.raises((ConfigError, UnknownNameError), match=message):
        guard.train("no such folder", augment=how)


def test_a_chain_trains_and_its_guard_loads(four: Arrays, tiny: Tiny, tmp_path: Path) -> None:
    options = {**tiny, "epochs": 1, "augment": "crop+pixmix+cutout"}
    g = guard.train((four[0][::3], four[1][::3]), out=tmp_path, **options)
    assert_equal(guard.load(tmp_path, device="cpu"), g)


def test_a_random_part_has_the_area_and_the_sides_that_are_published() -> None:
    """Told from a ramp: the range of x and of y that an image shows."""
    side = 64
    x, y = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="xy")
    ramp = torch.stack([3 * x, 3 * y, 0 * x], -1).to(torch.uint8).expand(400, -1, -1, -1)
    made = resized_crop(ramp, generator()).float()
    shown = [(made[:, :, -1, 0] - made[:, :, 0, 0]).mean(1), (made[:, -1, :, 1] - made[:, 0, :, 1]).mean(1)]
    across, down = (one.abs() / (3 * (side - 1)) for one in shown)
    area, ratio = across * down, across / down
    assert area.min() == pytest.approx(0.08, abs=0.02)
    assert area.max() > 0.9
    assert area.mean() == pytest.approx(0.53, abs=0.05)
    assert ratio.log().abs().max() < 0.35  # log 4/3 is 0.29
    assert (shown[0] < 0).float().mean() == pytest.approx(0.5, abs=0.08)  # mirrored
    assert (shown[1] > 0).all()
