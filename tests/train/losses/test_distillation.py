"""IDKD: both divergences against scipy, which way round, what learns, and what does not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy
from torch import Tensor

from guard.graph.outputs import Outputs
from train.losses.base import Batch
from train.losses.distillation import DistillationLoss, divergence, domain_transfer
from train.outliers.base import PrepareContext

N, CLASSES, STUDENT, TEACHER = 6, 4, 5, 7


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class ToyTeacher:
    """A linear layer on the images' pixels."""

    width = TEACHER

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def outputs(self, images: Tensor) -> Outputs:
        self.seen.append(images)
        flat = images.float().flatten(1) / 255
        return Outputs(flat @ random(flat.shape[1], TEACHER), flat @ random(flat.shape[1], CLASSES, seed=1), None)


IMAGES = torch.randint(0, 256, (N, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


def made(**options: Any) -> tuple[DistillationLoss, ToyTeacher]:
    teacher = ToyTeacher()
    loss = DistillationLoss(lambda _: teacher, **options)  # type: ignore[arg-type, return-value]
    module: Any = SimpleNamespace(classifier=SimpleNamespace(num_features=STUDENT))
    loss.prepare(PrepareContext(module, None, Path(), 0, torch.device("cpu")))  # type: ignore[arg-type]
    return loss, teacher


def batch_of(features: Tensor, logits: Tensor) -> Batch:
    none = Outputs(features[:0], logits[:0], None)
    return Batch(Outputs(features, logits, None), torch.zeros(N, dtype=torch.int64), none, images=IMAGES)


def test_the_divergence_is_scipys_and_its_gradient_its_own() -> None:
    p, q = random(N, CLASSES).double(), random(N, CLASSES, seed=1).double()
    expected = entropy(softmax(p.numpy(), -1), softmax(q.numpy(), -1), axis=-1).mean()
    assert divergence(p, q).item() == pytest.approx(expected)
    assert divergence(p, p).item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.gradcheck(divergence, (p.requires_grad_(), q.requires_grad_()))


@pytest.mark.parametrize("direction", ["teacher_student", "student_teacher"])
def test_both_terms_are_recomputed_from_the_definition(direction: Any) -> None:
    loss, teacher = made(logit_weight=4.0, feature_weight=8.0, direction=direction)
    features, logits = random(N, STUDENT, seed=2), random(N, CLASSES, seed=3)
    terms = loss.loss(batch_of(features, logits))
    assert teacher.seen[0] is IMAGES  # what the network saw
    taught = teacher.outputs(IMAGES)
    assert loss.transfer is not None
    norm, linear, last = (cast(Any, loss.transfer[i]) for i in (0, 1, 3))
    hidden = (taught.features - taught.features.mean(0)) / (taught.features.var(0, unbiased=False) + norm.eps).sqrt()
    hidden = (hidden @ linear.weight.T + linear.bias).clamp_min(0)
    hidden = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + last.eps).sqrt()

    def expected(a: Tensor, b: Tensor) -> float:
        a, b = (a, b) if direction == "teacher_student" else (b, a)
        return float(entropy(softmax(a.detach().numpy(), -1), softmax(b.detach().numpy(), -1), axis=-1).mean())

    assert terms["kd_logits"].item() == pytest.approx(4 * expected(taught.logits, logits), rel=1e-4)
    assert terms["kd_features"].item() == pytest.approx(8 * expected(hidden, features), rel=1e-4)


def test_the_student_and_the_transfer_learn_and_a_weight_of_zero_leaves_a_term_out() -> None:
    loss, _ = made()
    features, logits = random(N, STUDENT, seed=2).requires_grad_(), random(N, CLASSES, seed=3).requires_grad_()
    torch.stack(list(loss.loss(batch_of(features, logits)).values())).sum().backward()
    assert features.grad is not None
    assert logits.grad is not None
    assert features.grad.abs().sum() > 0
    assert logits.grad.abs().sum() > 0
    assert all(p.grad is not None for p in loss.parameters())
    assert set(made(feature_weight=0.0)[0].loss(batch_of(features, logits))) == {"kd_logits"}
    assert set(made(logit_weight=0.0)[0].loss(batch_of(features, logits))) == {"kd_features"}


def test_the_transfer_is_the_published_one_and_the_teacher_no_part_of_it() -> None:
    kinds = [type(layer).__name__ for layer in domain_transfer(TEACHER, STUDENT)]
    assert kinds == ["BatchNorm1d", "Linear", "ReLU", "BatchNorm1d"]
    loss, _ = made()
    assert {name.split(".")[0] for name in loss.state_dict()} == {"transfer"}
