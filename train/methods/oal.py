"""OAL, outlier aware learning. Source: Gao, He & Pu, preprint 2024 (methods.md A1).

    before    a teacher T on the training images; v~, boundary samples of its features; f_ood, latents of a diffusion
              model under conditions made from them (`train.outliers.features.teacher_outliers`)
    L = CE + a1 KL(softmax y_S || softmax y_T) + a2 KL(softmax h_S || softmax DT(h_T))
           + beta CLUB(v~, h_S) + gamma CLUB(f_ood, h_S)

in a fine-tuning of the plain classifier, which is trained first (or comes from ``init=``). Neither outlier images nor
outlier logits are in the loss: h_S are features of in-distribution images, and CLUB bounds what they tell of the
outliers (`mutual_information`). The guard is the classifier alone.

``variant="paper"`` is the method as it is meant: q fitted by likelihood, an image paired with outliers of its class,
the boundary samples that were scored, and both divergences as above, the way the paper prints them. ``variant="code"``
is the published code: q descends on the bound, pairs are random, and so the terms have expectation and gradient 0, the
boundary samples kept are not those that were scored, and both divergences are the other way round.

The defaults were decided on digits (docs/diffusion_methods.md has the table). Beside KL(teacher || student), pairs of
a class lose 1.4 points of AUROC on images nearby; beside KL(student || teacher) they lose 0.5, and gain 3 far away,
within the spread of the seeds. Random pairs change nothing.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from guard.record import option, part

from ..generators.diffusion import DiffusionOptions
from ..losses.base import Regulariser
from ..losses.distillation import Direction, DistillationLoss
from ..losses.mutual_information import MutualInformationLoss, QUpdate, boundary_conditional, latent_conditional
from ..losses.projected_energy import ProjectedEnergyLoss
from ..outliers.features.outlier_bank import Pairing
from ..outliers.features.teacher_outliers import TeacherOutlierOptions, TeacherOutliers
from ..teacher import TeacherOptions, TeacherSource
from .base import Method, MethodContext, MethodOptions, Stage, register

Q_LR = 1e-4  # of q, by either update
TRANSFER_LR = 2.0  # of DT, as a factor: 0.01 to 0.005


class OALOptions(MethodOptions, TeacherOutlierOptions, DiffusionOptions):
    """Those of the outliers and the diffusion model, and the published weights.

    Attributes:
        logit_weight, feature_weight: a1 and a2, of the distillation.
        boundary_weight, latent_weight: beta and gamma, of the bounds on v~ and on f_ood.
        direction, pairing, q_update: of the distillation, and of the bounds; None: by `variant`, "student_teacher",
            "class" and "likelihood", or "teacher_student", "random" and "joint".
        q_steps: steps of q by "likelihood" before each of the network.
        regulariser: "energy" takes an energy loss on projected outliers in the bounds' place, the paper's ablation.
        energy_weight: of that, for each kind of outlier.
        finetune_epochs, finetune_lr: published: 100 epochs.
    """

    teacher: TeacherOptions = option(TeacherOptions(), "The network that teaches; a string is its model.")
    logit_weight: float = Field(default=4.0, ge=0)
    feature_weight: float = Field(default=8.0, ge=0)
    boundary_weight: float = Field(default=0.1, ge=0)
    latent_weight: float = Field(default=0.2, ge=0)
    direction: Direction | None = None
    pairing: Pairing | None = None
    q_update: QUpdate | None = None
    q_steps: int = Field(default=5, ge=1)
    regulariser: Literal["mutual_information", "energy"] = "mutual_information"
    energy_weight: float = Field(default=2.5, ge=0)
    finetune_epochs: int = Field(default=10, ge=1)
    finetune_lr: float = Field(default=0.005, gt=0)
    variant: Literal["paper", "code"] = "paper"


@register
class OAL(Method):
    """Features that tell little of outliers from a diffusion model's latents, and a teacher (Gao, He & Pu 2024)."""

    name = "oal"
    Options = OALOptions

    def stages(self, context: MethodContext) -> list[Stage]:
        o: OALOptions = self.options
        teacher = TeacherSource(o.teacher, context.epochs, context.batch_size)
        outliers = TeacherOutliers(
            teacher,
            part(o, TeacherOutlierOptions),
            part(o, DiffusionOptions),
            selection=o.variant,
        )
        distillation = DistillationLoss(
            teacher,
            logit_weight=o.logit_weight,
            feature_weight=o.feature_weight,
            direction=o.direction or ("student_teacher" if o.variant == "paper" else "teacher_student"),
            lr_factor=TRANSFER_LR,
        )
        regularisers = (distillation, *self._against(outliers))
        finetune = Stage("oal", o.finetune_epochs, o.finetune_lr, regularisers=regularisers, warmup=0.0)
        if context.initialised:
            return [finetune]
        return [Stage("classifier", context.epochs, context.lr), finetune]

    def _against(self, outliers: TeacherOutliers) -> list[Regulariser]:
        """What is done with the two kinds of outliers."""
        o: OALOptions = self.options
        ours = o.variant == "paper"
        pairing: Pairing = o.pairing or ("class" if ours else "random")
        if o.regulariser == "energy":
            return [
                ProjectedEnergyLoss("energy_boundary", outliers.boundary, o.energy_weight, pairing=pairing),
                ProjectedEnergyLoss("energy_latents", outliers.latents, o.energy_weight, pairing=pairing),
            ]
        kinds = (
            ("mi_boundary", outliers.boundary, boundary_conditional, o.boundary_weight),
            ("mi_latents", outliers.latents, latent_conditional, o.latent_weight),
        )
        return [
            MutualInformationLoss(
                name,
                bank,
                conditional,
                weight,
                pairing=pairing,
                q_update=o.q_update or ("likelihood" if ours else "joint"),
                q_steps=o.q_steps,
                q_lr=Q_LR,
                lr_factor=Q_LR / o.finetune_lr,
            )
            for name, bank, conditional, weight in kinds
            if weight
        ]
