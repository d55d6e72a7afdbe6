"""OAL's two kinds of outliers, made once: a teacher's boundary samples, and latents denoised from them (Gao,
He & Pu 2024).

Of every class c, with T(c) the diffusion model's anchor of the class (a token embedding, a row of its table):

    v~    = |T(c)| v                      v a boundary sample of the teacher's unit features of c (knn_boundary)
    z_0   = latents of the diffusion model under the condition e(v), asked for class c
    f_ood = mean of z_0 over its first two axes, channels and height:   (c, h, w) -> (w,)

e(v) is v~ itself where the teacher's features are as wide as the conditioning space: a ViT-B and Stable Diffusion v1
have 768 both, which is how it is published. The two spaces have nothing else in common. Elsewhere, and wherever
`project` asks for it, e(v) = |T(c)| u / |u| with u = v P, and P the linear map by which unit features of the training
images come nearest to their classes' anchors (least squares): what v has of each class, in the anchors' span.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from guard.artefact.files import write_atomic
from guard.heads import unit
from guard.record import Record, option

from ...cache.keyed import content_digest, kept_path, model_identity
from ...cache.pieces import kept_chunks
from ...engine.seeds import PREPARED_STAGE, epoch_seed
from ...features.extract import stream_outputs
from ...generators.diffusion import Diffusion, DiffusionOptions, make_diffusion
from ...generators.grid import png_grid
from ...teacher import Teacher, TeacherSource
from ..base import PrepareContext
from .knn_boundary import BoundaryOptions, boundary_outliers, check_at_most
from .outlier_bank import OutlierBank

FULL_CLASS = 500  # images; of smaller classes, k and select keep their share
RIDGE = 1e-4  # of the mean square of a feature
SAMPLING = {"model", "sampling_steps", "guidance", "sampling_batch", "prompt"}  # what latents depend on
SHOWN = 12  # decoded latents in the picture beside them


class TeacherBoundaryOptions(Record):
    """How boundary samples are drawn around a class's features; the published values.

    Of a class of fewer than 500 images, k, select and pick keep their share.
    """

    k: int = option(300, "Which neighbour measures sparseness, in a class of 500 images or more.", ge=1)
    select: int = option(50, "Features that count as boundary, in a class of 500 images or more.", ge=1)
    pick: int = option(50, "Centres per draw, at most select.", ge=1)
    n_noise: int = option(1500, "Noise vectors per draw, shared by its centres.", ge=1)
    sigma: float = option(0.07, "Noise per coordinate.", gt=0)
    keep: int = option(2, "Candidates kept per centre.", ge=1)
    repeats: int = option(10, "Draws per class; published 10 for CIFAR-10 and 100 for CIFAR-100.", ge=1)
    noise: Literal["sphere", "scaled"] = option(
        "sphere",
        "'sphere': noise around the unit feature, as in the code; 'scaled': around the scaled feature, with sigma in "
        "units of the class embeddings, as in the paper.",
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        check_at_most(self, ("pick", "select"), ("keep", "n_noise"))
        return self

    def fitted(self, images: int, scale: float) -> BoundaryOptions:
        """The sampler's options for a class of that many images whose anchor has length `scale`."""
        share = min(1.0, images / FULL_CLASS)
        select = min(images, max(1, round(self.select * share)))
        return BoundaryOptions(
            k=min(images, max(2, round(self.k * share))),
            select=select,
            pick=min(select, max(1, round(self.pick * share))),
            n_noise=self.n_noise,
            sigma=self.sigma if self.noise == "sphere" else self.sigma / max(scale, 1e-12),
            keep=self.keep,
            repeats=self.repeats,
            renormalise=self.noise == "sphere",
        )


class TeacherOutlierOptions(Record):
    """How both kinds are made; the published values."""

    boundary: TeacherBoundaryOptions = option(
        TeacherBoundaryOptions(), "How boundary samples are drawn around the teacher's features."
    )
    num_latents: int = option(300, "Latents to denoise, evenly divided over the classes, at least one each.", ge=1)
    project: bool | None = option(
        None,
        "Whether boundary samples are projected to the conditioning space; default where the widths differ.",
    )


class _Identity(Record):
    """What decides what is made, for its folder's name."""

    options: dict[str, Any]
    teacher: str
    anchors: str


class TeacherOutliers:
    """Both banks, each made when first asked for and kept under `PrepareContext.folder`."""

    def __init__(self, teacher: TeacherSource, options: TeacherOutlierOptions, diffusion: DiffusionOptions) -> None:
        self.teacher, self.options, self.diffusion = teacher, options, diffusion
        self._model: Diffusion | None = None
        self._features: list[Tensor] | None = None
        self._projection: Tensor | None = None
        self._boundary: OutlierBank | None = None
        self._latents: OutlierBank | None = None

    def boundary(self, context: PrepareContext) -> OutlierBank:
        """v~ (M, width of the teacher's features) on the context's device."""
        if self._boundary is None:
            self._boundary = self._make_boundary(context).to(context.device)
        return self._boundary

    def latents(self, context: PrepareContext) -> OutlierBank:
        """f_ood (num_latents, w) on the context's device."""
        if self._latents is None:
            self._latents = self._make_latents(context).to(context.device)
            self._model = self._features = self._projection = None  # much memory, and never asked for again
        return self._latents

    def _make_boundary(self, context: PrepareContext) -> OutlierBank:
        anchors = self._anchors(context)
        scales = torch.linalg.vector_norm(anchors, dim=-1)

        def make(c: int) -> dict[str, Tensor]:
            features = self._class_features(context)[c]
            options = self.options.boundary.fitted(len(features), float(scales[c]))
            generator = torch.Generator(context.device).manual_seed(_seed(context, c))
            made = scales[c] * boundary_outliers(features, options, generator)
            return {"vectors": made, "classes": torch.full((len(made),), c)}

        folder = kept_path(context, "boundary", self._boundary_identity(context)).with_suffix("")
        return OutlierBank(**kept_chunks(folder, len(anchors), make, "boundary samples"), num_classes=len(anchors))

    def _make_latents(self, context: PrepareContext) -> OutlierBank:
        o, bank, anchors = self.options, self.boundary(context), self._anchors(context)
        count, size = max(o.num_latents, len(anchors)), self.diffusion.sampling_batch
        classes = torch.arange(count, device=context.device) % len(anchors)
        generator = torch.Generator(context.device).manual_seed(_seed(context, len(anchors)))
        outliers = bank.draw(classes, generator)
        folder = kept_path(context, "latents", self._latents_identity(context)).with_suffix("")

        def make(i: int) -> dict[str, Tensor]:
            rows = slice(i * size, (i + 1) * size)
            generator = torch.Generator(context.device).manual_seed(_seed(context, len(anchors) + 1 + i))
            model = self._diffusion(context)
            z = model.latents(self._conditions(context, outliers[rows], classes[rows]), classes[rows], generator)
            if i == 0:
                shown = list(model.decode(z[:SHOWN]).split(SHOWN // 2))
                write_atomic(folder / "images.png", png_grid(shown, scale=1))
            return {"vectors": z.float().mean((1, 2)), "classes": classes[rows]}

        return OutlierBank(**kept_chunks(folder, -(-count // size), make, "latents"), num_classes=len(anchors))

    def _conditions(self, context: PrepareContext, outliers: Tensor, classes: Tensor) -> Tensor:
        """e (n, E) of boundary samples (n, D) of classes (n,)."""
        anchors, project = self._anchors(context), self.options.project
        if not (outliers.shape[1] != anchors.shape[1] if project is None else project):
            return outliers
        if self._projection is None:
            self._projection = anchor_projection([unit(f) for f in self._class_features(context)], anchors)
        scale: Tensor = torch.linalg.vector_norm(anchors[classes], dim=-1, keepdim=True)
        return scale * unit(unit(outliers) @ self._projection)

    def _class_features(self, context: PrepareContext) -> list[Tensor]:
        if self._features is None:
            self._features = class_features(self.teacher(context), context)
        return self._features

    def _diffusion(self, context: PrepareContext) -> Diffusion:
        if self._model is None:
            self._model = make_diffusion(context, self.diffusion)
        return self._model

    def _anchors(self, context: PrepareContext) -> Tensor:
        """T (C, E)."""
        every = torch.arange(len(context.data.class_names), device=context.device)
        model = self._diffusion(context)  # may be trained now
        with torch.no_grad():
            return model.condition(every).float()

    def _boundary_identity(self, context: PrepareContext) -> _Identity:
        return _Identity(
            options=self.options.boundary.model_dump(mode="json"),
            teacher=self.teacher(context).identity,
            anchors=content_digest(self._anchors(context).half()),
        )

    def _latents_identity(self, context: PrepareContext) -> _Identity:
        before = self._boundary_identity(context)
        asked = self.diffusion.model_dump(mode="json", include=SAMPLING)
        model = model_identity(self._diffusion(context))
        mine = {**self.options.model_dump(mode="json"), "diffusion": asked, "weights": model}
        return before.model_copy(update={"options": {**before.options, **mine}})


def class_features(teacher: Teacher, context: PrepareContext) -> list[Tensor]:
    """The teacher's features (n_c, width) of each class's training images, without augmentation."""
    assert context.data.labels is not None  # training images are labelled
    labels = torch.from_numpy(context.data.labels).to(context.device)
    features = torch.cat(
        [outputs.features for outputs in stream_outputs(teacher.module, context.data, title="teacher")]
    )
    return [features[labels == c] for c in range(len(context.data.class_names))]


def anchor_projection(features: list[Tensor], anchors: Tensor) -> Tensor:
    """P (D, E) that minimises the mean of |h P - T(y)|^2 over the features h of all classes, slightly ridged.

    Args:
        features: (n_c, D) per class. anchors: T (C, E).
    """
    rows = torch.cat(features).double()
    targets = torch.cat([anchors[c].expand(len(part), -1) for c, part in enumerate(features)]).double()
    gram = rows.T @ rows
    ridge = RIDGE * gram.diagonal().mean()
    solved: Tensor = torch.linalg.solve(gram + ridge * torch.eye(len(gram), device=gram.device), rows.T @ targets)
    return solved.float()


def _seed(context: PrepareContext, part: int) -> int:
    return epoch_seed(context.seed, PREPARED_STAGE + 1, part)
