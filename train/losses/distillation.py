"""R-KD: what a teacher makes of the in-distribution images, taught to the network (IDKD of OAL,
Gao, He & Pu 2024).

    logits      KL( softmax y_T || softmax y_S )
    features    KL( softmax DT(h_T) || softmax h_S ),   DT = BatchNorm, Linear, ReLU, BatchNorm, learned along

means over the batch, sums over classes or feature dimensions, temperature 1. Which way round is `direction`:
"teacher_student" is the above and the official code's; "student_teacher" swaps both, as the paper's formulas are
printed. The first asks the student to cover all that the teacher finds possible, the second to say nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from ..engine.seeds import seeded
from ..outliers.base import PrepareContext
from ..teacher import Teacher
from .base import Batch, Regulariser

Direction = Literal["teacher_student", "student_teacher"]


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """Mean over the batch of KL(softmax p || softmax q) >= 0, for p and q (N, K); differentiable in both."""
    log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def directed(teacher: Tensor, student: Tensor, direction: Direction) -> Tensor:
    """`divergence` of the two, the way `direction` says."""
    return divergence(teacher, student) if direction == "teacher_student" else divergence(student, teacher)


def domain_transfer(inputs: int, outputs: int) -> nn.Sequential:
    """DT: a teacher's features (N, inputs) -> the student's feature space (N, outputs)."""
    return nn.Sequential(nn.BatchNorm1d(inputs), nn.Linear(inputs, outputs), nn.ReLU(), nn.BatchNorm1d(outputs))


class DistillationLoss(Regulariser):
    """Both divergences on the in-distribution images, as the network saw them (augmented).

    Args:
        teacher: made when the stage begins.
        logit_weight, feature_weight: factors of the two; 0 leaves a term out.
        lr_factor: learning rate of DT as a factor of the stage's; the code's is 0.01 to 0.005.
        check: of the teacher, before anything is trained.
    """

    reads_labels = False

    def __init__(
        self,
        teacher: Callable[[PrepareContext], Teacher],
        *,
        logit_weight: float = 4.0,
        feature_weight: float = 8.0,
        direction: Direction = "student_teacher",
        lr_factor: float = 2.0,
        check: Callable[[PrepareContext], object] | None = None,
    ) -> None:
        super().__init__()
        self.logit_weight, self.feature_weight, self.direction = logit_weight, feature_weight, direction
        self.lr_factor = lr_factor
        self.transfer: nn.Sequential | None = None
        self._make_teacher, self._check = teacher, check
        self._teacher: Teacher | None = None  # no module of this one: checkpoints need not hold it

    def check(self, context: PrepareContext) -> None:
        if self._check is not None:
            self._check(context)

    def prepare(self, context: PrepareContext) -> None:
        self._teacher = self._make_teacher(context)
        with seeded(context.seed):
            transfer = domain_transfer(self._teacher.width, context.module.classifier.num_features)
        self.transfer = transfer.to(context.device)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        assert self._teacher is not None and self.transfer is not None  # noqa: PT018  (prepared before the first step)
        assert batch.images is not None  # the loop gives them
        taught = self._teacher.outputs(batch.images)
        terms: dict[str, Tensor] = {}
        if self.logit_weight:
            logits = directed(taught.logits, batch.inliers.logits.float(), self.direction)
            terms["kd_logits"] = self.logit_weight * logits
        if self.feature_weight:
            features = directed(self.transfer(taught.features), batch.inliers.features.float(), self.direction)
            terms["kd_features"] = self.feature_weight * features
        return terms
