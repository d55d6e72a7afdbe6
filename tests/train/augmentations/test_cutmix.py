"""CutMix: its box, the labels' weights, the loss, and what cannot go with mixed labels."""

from __future__ import annotations

import pytest
import torch

import guard
from guard.errors import ConfigError
from guard.heads import create_head, list_heads
from tests.conftest import RECIPES, Arrays
from tests.train.engine.runs import Tiny, short
from train.augmentations.base import AugmentContext, Mixing, chain
from train.augmentations.cutmix import CutMix, box
from train.engine.stage_run import StageRun


def step(height: int, width: int) -> CutMix:
    return CutMix(AugmentContext(height, width, 3, (0.0,) * 3, 0, torch.device("cpu")))


@pytest.mark.parametrize("size", [(32, 32), (17, 26)])
def test_the_box_is_the_official_one(size: tuple[int, int]) -> None:
    """Around any pixel, cut to the image; of half sides int(int(size sqrt(1 - l)) / 2)."""
    height, width = size
    areas = []
    for seed in range(400):
        taken = box(height, width, torch.Generator().manual_seed(seed))
        rows, columns = taken.any(1), taken.any(0)
        assert taken.equal(rows[:, None] & columns)  # a rectangle
        for line in (rows, columns):
            (at,) = torch.nonzero(line, as_tuple=True)
            assert len(at) == 0 or at[-1] - at[0] + 1 == len(at)
        areas.append(taken.float().mean().item())
    # 1 - l is uniform; a box whose middle is anywhere loses a part of its area at the edges
    sides = torch.arange(0.0005, 1, 0.001).sqrt()
    share = torch.ones(())
    for s in size:
        half, middle, place = (s * sides / 2).floor()[:, None, None], torch.arange(s)[:, None], torch.arange(s)
        share = share * ((place >= middle - half) & (place < middle + half)).float().mean((1, 2))
    assert sum(areas) / len(areas) == pytest.approx(share.mean().item(), abs=0.03)


@pytest.mark.parametrize(("side", "share"), [(32, 0.5), (65, 1.0)])
def test_the_weight_is_exactly_the_share_of_own_pixels(side: int, share: float) -> None:
    images = torch.arange(50, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, side, side - 3, 3).contiguous()
    mixed_batches = 0
    for seed in range(60):
        made, partner, weight = step(side, side - 3).mixed(images, torch.Generator().manual_seed(seed))
        own = made == images
        others = partner != torch.arange(50)
        assert (made == torch.where(own, images, images[partner])).all()
        assert torch.equal(own[others].float().mean((1, 2, 3)), weight.expand(int(others.sum())))
        assert partner.sort().values.equal(torch.arange(50))
        mixed_batches += bool(weight < 1)
    assert mixed_batches / 60 == pytest.approx(share, abs=0.17)


def test_the_loss_is_the_weighted_mean_over_both_labels(
    four: Arrays, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    of_step = StageRun._head_losses

    def watched(self: StageRun, inliers, labels, mixed):  # type: ignore[no-untyped-def]
        terms = of_step(self, inliers, labels, mixed)
        p = inliers.logits.float().log_softmax(-1)
        target = torch.zeros_like(p)
        for i, (own, other) in enumerate(zip(labels.tolist(), labels[mixed.partner].tolist(), strict=True)):
            target[i, own] += mixed.weight
            target[i, other] += 1 - mixed.weight
        assert terms["ce"].item() == pytest.approx(-(target * p).sum(-1).mean().item(), abs=1e-4)
        seen.append(mixed.weight.item())
        return terms

    monkeypatch.setattr(StageRun, "_head_losses", watched)
    guard.train(short(four), **{**tiny, "epochs": 3, "augment": "crop+cutmix"})
    assert any(weight < 1 for weight in seen)


def test_outliers_are_made_of_unmixed_images_and_are_mixed_with_each_other(
    four: Arrays, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    of_batch = CutMix.mixed

    def watched(self: CutMix, images: torch.Tensor, generator: torch.Generator):  # type: ignore[no-untyped-def]
        sizes.append(len(images))
        return of_batch(self, images, generator)

    monkeypatch.setattr(CutMix, "mixed", watched)
    guard.train(short(four), **{**tiny, **RECIPES["oe"], "epochs": 1, "augment": "crop+cutmix"})
    assert sizes[:2] == [32, 32]
    assert len(sizes) % 2 == 0


@pytest.mark.parametrize("name", list_heads())
def test_a_head_that_moves_says_so(name: str) -> None:
    """Twice the same question has one answer, and no state changes, unless it says otherwise."""
    torch.manual_seed(0)
    head = create_head(name, 12, 4)
    features = head.embed(torch.randn(8, 12))
    logits, labels = head(features), torch.arange(8) % 4
    before = {key: value.clone() for key, value in head.state_dict().items()}
    first, second = (head.loss(features, logits, labels) for _ in range(2))
    moved = any(not value.equal(before[key]) for key, value in head.state_dict().items())
    assert head.moves or not moved
    assert head.moves or all(first[key].equal(second[key]) for key in first)
    assert head.moves == (name in ("hypersphere", "sphereface"))
    if name == "adacos":
        assert create_head(name, 12, 4, adaptive=True).moves


class Reached(Exception):
    """Training begins."""


REFUSED = ("vos", "gcos", "npos", "atol", "fodfom", "oal", "dream_id")
ACCEPTED = ("plain", "cosine", "c_plus_1", "oe", "energy_ft", "phase_mix", "mim", "rejection", "kirby", "gan")


@pytest.mark.parametrize("name", RECIPES)
def test_every_method_trains_with_mixed_labels_or_says_why_not(
    name: str, four: Arrays, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an accepted method's regularisers read is in tests/contract/test_losses.py."""

    def begins(self: StageRun, epoch: int) -> dict[str, float]:
        raise Reached

    monkeypatch.setattr(StageRun, "epoch", begins)
    with pytest.raises((Reached, ConfigError)) as found:
        guard.train(short(four), **{**tiny, **RECIPES[name], "epochs": 1, "augment": "crop+cutmix"})
    if found.type is ConfigError:
        assert "mixes the labels of two images; " in str(found.value)
        assert "'crop+cutout'" in str(found.value)
        assert name not in ACCEPTED
    else:
        assert name not in REFUSED


@pytest.mark.parametrize("augment", ["cutmix", "cutout+cutmix", "crop+cutout+flip+cutmix"])
def test_what_a_refusal_names_instead_can_be_given(augment: str, four: Arrays, tiny: Tiny) -> None:
    with pytest.raises(ConfigError) as found:
        guard.train(short(four), head="sphereface", **{**tiny, "augment": augment})
    instead = str(found.value).rsplit("such as ")[-1].strip("'")
    assert not any(issubclass(step, Mixing) for step in chain(instead))


@pytest.mark.parametrize("head", ["hypersphere", "sphereface"])
def test_a_head_that_moves_is_refused_before_training(head: str, four: Arrays, tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match=f"head='{head}' moves with each label; use head='linear', or use another"):
        guard.train(short(four), head=head, **{**tiny, "augment": "cutmix"})
