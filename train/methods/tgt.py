"""TGT: fine-tuning that keeps what a general network knows beside the classes. Source: TGT, ECCV 2026
(arXiv 2603.11269; the equations are of a draft, the final paper takes the cosine).

    r(x) = (I - Q Q') (u(x) - m)                  u a frozen teacher's feature, Q the space of the classes' means
    L = CE(f(x), y) + weight * |g(h(x)) - r(x)|^2 / mean |r|^2

Networks that are fine-tuned on images of one kind fold their features into the few directions that tell the classes
apart; what is unlike all of them then looks like one of them, to every distance. No outliers are made. The teacher sees
each image once, without augmentation; g is dropped after training, and the exported graph is that of `plain`.
"""

from __future__ import annotations

from guard.record import option

from ..frozen_teacher import START, FrozenTeacher
from ..losses.residual_distillation import Objective, ResidualDistillation
from .base import Method, MethodContext, MethodOptions, Stage, register


class TGTOptions(MethodOptions):
    """Options of the teacher and its loss."""

    teacher: str = option(
        START,
        "The frozen network that teaches: 'start' is the one that training starts from (pretrained=, init=); else "
        "timm's folder, a hub id, or a guard's folder.",
        common=True,
    )
    weight: float = option(1.0, "Weight of the residual's term.", common=True, ge=0)
    objective: Objective = option(
        "squared", "'squared', the share of the residual that is missed, or 'cosine', 1 less the cosine with it."
    )
    hidden: int = option(0, "Units of an MLP beside the line g; 0: g is linear.", ge=0)


@register
class TGT(Method):
    """Fine-tuning that keeps a frozen teacher's class-suppressed residual in its features (TGT, ECCV 2026)."""

    name = "tgt"
    Options = TGTOptions
    score = "vim"
    only_classifies = True

    def stages(self, context: MethodContext) -> list[Stage]:
        o: TGTOptions = self.options
        teacher = FrozenTeacher(o.teacher, context.initialised or context.pretrained)
        kept = ResidualDistillation(teacher, o.weight, o.objective, o.hidden)
        return [Stage("classifier", context.epochs, context.lr, regularisers=(kept,))]
