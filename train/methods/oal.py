"""OAL, outlier aware learning. Source: Gao, He & Pu, preprint 2024.

    before    a teacher T on the training images; v~, boundary samples of its features; f_ood, latents of a diffusion
              model under conditions made from them (`train.outliers.features.teacher_outliers`)
    L = CE + a1 KL(softmax y_S || softmax y_T) + a2 KL(softmax h_S || softmax DT(h_T))
           + beta CLUB(v~, h_S) + gamma CLUB(f_ood, h_S)

in a fine-tuning of the plain classifier, which is trained first (or comes from ``init=``). Neither outlier images nor
outlier logits are in the loss: h_S are features of in-distribution images, and CLUB bounds what they tell of the
outliers (`mutual_information`). The guard is the classifier alone.

q is fitted by likelihood, an image is paired with outliers of its class, and both divergences are as above, the way the
paper prints them. In the published code q descends on the bound (``q_update="joint"``), pairs are random, so that the
bounds have expectation and gradient 0, and both divergences are the other way round (``direction="teacher_student"``).

The defaults were decided on digits (docs/methods/oal.md has the table). Beside KL(teacher || student), pairs of
a class lose 1.4 points of AUROC on images nearby; beside KL(student || teacher) they lose 0.5, and gain 3 far away,
within the spread of the seeds. Random pairs change nothing.
"""

from __future__ import annotations

from typing import Literal

from guard.record import option, part

from ..generators.diffusion import DiffusionOptions
from ..losses.base import Regulariser
from ..losses.distillation import Direction, DistillationLoss
from ..losses.mutual_information import MutualInformationLoss, QUpdate, boundary_conditional, latent_conditional
from ..losses.projected_energy import ProjectedEnergyLoss
from ..outliers.features.teacher_outliers import TeacherOutlierOptions, TeacherOutliers
from ..teacher import TeacherOptions, TeacherSource
from .base import Method, MethodContext, MethodOptions, Stage, register

Q_LR = 1e-4  # of q, by either update
TRANSFER_LR = 2.0  # of DT, as a factor: 0.01 to 0.005


class OALOptions(MethodOptions, TeacherOutlierOptions):
    """Options of the outliers, the teacher and the losses."""

    teacher: TeacherOptions = option(TeacherOptions(), "The network that teaches; a string is its model.")
    diffusion: DiffusionOptions = option(
        DiffusionOptions(), "The diffusion model whose latents are outliers.", common=True
    )
    logit_weight: float = option(4.0, "Weight a1 of the distillation of logits.", ge=0)
    feature_weight: float = option(8.0, "Weight a2 of the distillation of features.", ge=0)
    direction: Direction = option(
        "student_teacher",
        "Which way round the divergences of the distillation are; 'teacher_student' is the official code's.",
    )
    regulariser: Literal["mutual_information", "energy"] = option(
        "mutual_information",
        "What is done with outliers: bounds on mutual information, or the paper's ablation, an energy loss on outliers "
        "projected to the features.",
    )
    boundary_weight: float = option(
        0.1, "Weight beta of the bound on boundary samples.", ge=0, read_if={"regulariser": "mutual_information"}
    )
    latent_weight: float = option(
        0.2, "Weight gamma of the bound on latents.", ge=0, read_if={"regulariser": "mutual_information"}
    )
    q_update: QUpdate = option(
        "likelihood",
        "How q of the bounds learns: by 'likelihood', or by descending on the bound ('joint') as in the official code.",
        read_if={"regulariser": "mutual_information"},
    )
    q_steps: int = option(
        5,
        "Steps of q before each step of the network.",
        ge=1,
        read_if={"regulariser": "mutual_information", "q_update": "likelihood"},
    )
    energy_weight: float = option(
        2.5, "Weight of the energy loss, for each kind of outlier.", ge=0, read_if={"regulariser": "energy"}
    )
    tune_epochs: int = option(10, "Epochs of the fine-tuning (published: 100).", ge=1, common=True)
    tune_lr: float = option(0.005, "Peak learning rate of the fine-tuning.", gt=0)


@register
class OAL(Method):
    """Features that tell little of outliers from a diffusion model's latents, and a teacher (Gao, He & Pu 2024)."""

    name = "oal"
    Options = OALOptions

    def stages(self, context: MethodContext) -> list[Stage]:
        o: OALOptions = self.options
        teacher = TeacherSource(o.teacher, o.teacher.epochs or context.epochs, context.batch_size)
        outliers = TeacherOutliers(teacher, part(o, TeacherOutlierOptions), o.diffusion)
        regularisers = (*self._taught(teacher), *self._against(outliers))
        return context.after_classifier(Stage("oal", o.tune_epochs, o.tune_lr, regularisers=regularisers, warmup=0.0))

    def _taught(self, teacher: TeacherSource) -> list[Regulariser]:
        """The distillation; none of it where both weights are 0, so that no teacher answers for nothing."""
        o: OALOptions = self.options
        if not (o.logit_weight or o.feature_weight):
            return []
        return [
            DistillationLoss(
                teacher,
                logit_weight=o.logit_weight,
                feature_weight=o.feature_weight,
                direction=o.direction,
                lr_factor=TRANSFER_LR,
                check=teacher.check,
            )
        ]

    def _against(self, outliers: TeacherOutliers) -> list[Regulariser]:
        """What is done with the two kinds of outliers."""
        o: OALOptions = self.options
        if o.regulariser == "energy":
            return [
                ProjectedEnergyLoss(name, bank, o.energy_weight, check=check)
                for name, bank, check in (
                    ("energy_boundary", outliers.boundary, outliers.teacher.check),
                    ("energy_latents", outliers.latents, outliers.check),
                )
                if o.energy_weight
            ]
        kinds = (
            ("mi_boundary", outliers.boundary, outliers.teacher.check, boundary_conditional, o.boundary_weight),
            ("mi_latents", outliers.latents, outliers.check, latent_conditional, o.latent_weight),
        )
        return [
            MutualInformationLoss(
                name,
                bank,
                conditional,
                weight,
                q_update=o.q_update,
                q_steps=o.q_steps,
                q_lr=Q_LR,
                lr_factor=Q_LR / o.tune_lr,
                check=check,
            )
            for name, bank, check, conditional, weight in kinds
            if weight
        ]
