"""What every loss must do, tested for each class in train/losses."""

from __future__ import annotations

import copy
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import train.losses
from guard.graph.outputs import Outputs
from guard.heads import create_head
from guard.scores import create_score
from train.frozen_teacher import FrozenTeacher
from train.losses.base import Batch, Regulariser
from train.losses.mutual_information import boundary_conditional
from train.outliers.features.outlier_bank import OutlierBank

CLASSES, FEATURES, N, K, M = 4, 6, 16, 12, 9
PAGE = Path(__file__).parents[2] / "docs" / "losses.md"

for module in pkgutil.iter_modules(train.losses.__path__, "train.losses."):
    importlib.import_module(module.name)
LOSSES = {
    cls.__name__: cls
    for cls in sorted(Regulariser.__subclasses__(), key=lambda cls: cls.__name__)
    if cls.__module__.startswith("train.losses.")
}


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def bank(context: Any) -> OutlierBank:
    return OutlierBank(random(40, 5, seed=5), torch.arange(40) % CLASSES, CLASSES)


def rejection_network() -> Any:
    score = create_score("rejection", hidden=8)
    score.build(FEATURES)
    return score


class Teacher(nn.Module):
    """Answers by an image's brightness, so that another order of the images is another order of the answers."""

    width = 5

    def outputs(self, images: Tensor) -> Outputs:
        bright = images.float().mean((1, 2, 3))[:, None] / 255
        return Outputs(bright * random(1, 5, seed=6), bright * random(1, CLASSES, seed=7), None)


def residual_distillation(cls: type[Any]) -> Regulariser:
    """With features and residuals of the batch's images in place of a teacher's."""
    loss: Any = cls(FrozenTeacher("start", has_start=True))
    loss.begin(random(N, FEATURES, seed=1), random(N, 5, seed=9) / 5**0.5, torch.device("cpu"))
    loss.prepare = lambda context: None
    return loss  # type: ignore[no-any-return]


#: How a loss is made that cannot be made without arguments.
MADE: dict[str, Callable[[type[Any]], Regulariser]] = {
    "DistillationLoss": lambda cls: cls(lambda context: Teacher()),
    "EnergyHingeLoss": lambda cls: cls((-3.0, -1.0)),
    "EnergyLogisticLoss": lambda cls: cls(CLASSES),
    "MutualInformationLoss": lambda cls: cls("mi", bank, boundary_conditional, 0.1),
    "ProjectedEnergyLoss": lambda cls: cls("energy", bank),
    "ResidualDistillation": residual_distillation,
    "RotationLoss": lambda cls: cls(FEATURES),
    "RejectionLoss": lambda cls: cls(rejection_network()),
}
LABELLED = {"UnionLoss"}  # for which every image outside has a class
DRAWS = {"MutualInformationLoss", "ProjectedEnergyLoss"}  # whose partner of an image depends on its place in the batch


def made(name: str) -> Regulariser:
    torch.manual_seed(0)
    loss = MADE.get(name, lambda cls: cls())(LOSSES[name])
    module = SimpleNamespace(classifier=SimpleNamespace(num_features=FEATURES))
    loss.prepare(SimpleNamespace(seed=0, device=torch.device("cpu"), module=module))  # type: ignore[arg-type]
    return loss


def batch_of(name: str, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> tuple[Batch, Tensor]:
    """In-distribution images of four classes, outliers of which half have a class too, further images of the
    loss's own with labels 1 to 3; the features they come from."""
    torch.manual_seed(0)
    has_class = torch.arange(K) % 2 == 0 if name not in LABELLED else torch.ones(K, dtype=torch.bool)
    head = create_head("c_plus_1", FEATURES, CLASSES)
    features = (scale * torch.cat([random(N + K, FEATURES, seed=1), random(M, FEATURES, seed=8)])).requires_grad_()
    shown, logits = features.to(dtype), head(features).to(dtype)
    images = torch.randint(0, 256, (N, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    return Batch(
        Outputs(shown[:N], logits[:N], None),
        torch.arange(N) % CLASSES,
        Outputs(shown[N : N + K], logits[N : N + K], None),
        torch.where(has_class, torch.arange(K) % CLASSES, -1),
        head,
        images,
        torch.Generator().manual_seed(3),
        Outputs(shown[N + K :], logits[N + K :], None),
        1 + torch.arange(M) % 3,
        torch.arange(N),
    ), features


def reordered(batch: Batch) -> Batch:
    """The same images, last first."""

    def back(outputs: Outputs) -> Outputs:
        return Outputs(outputs.features.flip(0), outputs.logits.flip(0), None)

    assert batch.outlier_labels is not None
    assert batch.images is not None
    assert batch.further is not None
    assert batch.further_labels is not None
    assert batch.rows is not None
    return Batch(
        back(batch.inliers),
        batch.labels.flip(0),
        back(batch.outliers),
        batch.outlier_labels.flip(0),
        batch.head,
        batch.images.flip(0),
        torch.Generator().manual_seed(3),
        back(batch.further),
        batch.further_labels.flip(0),
        batch.rows.flip(0),
    )


@pytest.mark.parametrize("name", LOSSES)
class TestEveryLoss:
    def test_its_terms_are_finite_float32_scalars_that_teach_something(self, name: str) -> None:
        batch, features = batch_of(name)
        loss = made(name)
        terms = loss.loss(batch)
        assert terms
        assert all(t.shape == () and t.dtype == torch.float32 and t.isfinite() for t in terms.values())
        torch.stack(list(terms.values())).sum().backward()
        learned = [p.grad for p in loss.parameters() if p.grad is not None]
        taught = [g for g in (features.grad, *learned) if g is not None]
        assert all(g.isfinite().all() for g in taught)
        assert any(g.abs().max() > 0 for g in taught)

    @pytest.mark.parametrize("scale", [0.0, 1e3])
    def test_values_and_gradients_stay_finite(self, name: str, scale: float) -> None:
        """At features and logits without a difference, and at very sure ones."""
        batch, features = batch_of(name, scale)
        total = torch.stack(list(made(name).loss(batch).values())).sum()
        total.backward()
        assert total.isfinite()
        assert features.grad is None or features.grad.isfinite().all()

    def test_half_precision_outputs_give_nearly_the_same_in_float32(self, name: str) -> None:
        """Under autocast the network's outputs are in bfloat16; a sum over a batch must not be."""
        exact = made(name).loss(batch_of(name)[0])
        rounded = made(name).loss(batch_of(name, dtype=torch.bfloat16)[0])
        assert all(t.dtype == torch.float32 for t in rounded.values())
        torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.05)

    def test_the_order_of_the_images_does_not_matter(self, name: str) -> None:
        if name in DRAWS:
            pytest.skip("it draws a partner for each place of the batch")
        loss = made(name)
        batch, _ = batch_of(name)
        torch.testing.assert_close(copy.deepcopy(loss).loss(reordered(batch)), loss.loss(batch), rtol=1e-5, atol=1e-5)

    def test_it_reads_no_labels_unless_it_says_so(self, name: str) -> None:
        """The labels of mixed images (CutMix) are shown to no loss that reads them."""
        loss = made(name)
        batch, _ = batch_of(name)
        other = replace(batch, labels=batch.labels.flip(0), generator=torch.Generator().manual_seed(3))
        terms, others = copy.deepcopy(loss).loss(batch), copy.deepcopy(loss).loss(other)
        assert loss.reads_labels or all(terms[key].equal(others[key]) for key in terms)

    def test_it_says_what_it_is_and_has_a_row(self, name: str) -> None:
        source = inspect.getmodule(LOSSES[name])
        assert source is not None
        assert (source.__doc__ or "").strip()
        assert (LOSSES[name].__doc__ or "").strip()
        stem = source.__name__.rpartition(".")[2]
        assert re.search(rf"^\| `{stem}` \|", PAGE.read_text(), re.MULTILINE), f"docs/losses.md has no row for {stem}"


def test_every_loss_of_the_package_is_found() -> None:
    assert len(LOSSES) >= 12
    assert set(MADE) <= set(LOSSES)
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert set(rows) == {cls.__module__.rpartition(".")[2] for cls in LOSSES.values()}
