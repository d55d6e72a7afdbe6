"""OAL's two kinds of outliers, made once: a teacher's boundary samples, and latents denoised from them (Gao,
He & Pu 2024).

Of every class c, with T(c) the diffusion model's anchor of the class (a token embedding, a row of its table):

    v~    = |T(c)| v                      v a boundary sample of the teacher's unit features of c (knn_boundary)
    z_0   = latents of the diffusion model under the condition e(v), asked for class c
    f_ood = mean of z_0 over its first two axes, channels and height:   (c, h, w) -> (w,)

e(v) is v~ itself on Stable Diffusion where the teacher's features are as wide as its conditioning space: a ViT-B and
Stable Diffusion v1 have 768 both, which is how it is published. The two spaces have nothing else in common. Elsewhere,
and wherever `project` asks for it, e(v) = |T(c)| u / |u| with u = v P, and P the linear map by which unit features of
the training images come nearest to their classes' anchors (least squares): what v has of each class, in the anchors'
span. Two widths that happen to be equal are no reason to leave it out: unprojected features were nearest the anchor of
their own class never, where chance is a quarter, and projected ones in most cases.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from guard.artefact.files import write_atomic
from guard.errors import ConfigError
from guard.heads import unit
from guard.record import Record, option

from ...cache.keyed import content_digest, kept_path, model_identity
from ...cache.pieces import kept_chunks
from ...engine.seeds import PREPARED_STAGE, epoch_seed
from ...features.extract import stream_outputs
from ...generators.diffusion import Diffusion, DiffusionOptions, known_form, make_diffusion
from ...generators.grid import png_grid
from ...teacher import Teacher, TeacherSource
from ..base import PrepareContext
from .boundary_search import Bank
from .knn_boundary import BoundaryOptions, around, boundary_outliers, check_at_most
from .outlier_bank import OutlierBank

FULL_CLASS = 500  # images; of smaller classes, k and select keep their share
PUBLISHED_WIDTH = 768  # of the teacher's features that sigma belongs to
RIDGE = 1e-4  # of the mean square of a feature
SAMPLING = {"model", "sampler", "sampling_steps", "spacing", "guidance", "prompt"}  # what latents depend on
PER_PIECE = 64  # latents of one file; how many of them are denoised at once is no matter
SHOWN = 12  # decoded latents in the picture beside them


class TeacherBoundaryOptions(Record):
    """How boundary samples are drawn around a class's features; the published values.

    Of a class of fewer than 500 images, k, select and pick keep their share. sigma belongs to 768 features.
    """

    k: int = option(300, "Which neighbour measures sparseness, in a class of 500 images or more.", ge=1)
    select: int = option(50, "Features that count as boundary, in a class of 500 images or more.", ge=1)
    pick: int = option(50, "Centres per draw, at most select.", ge=1)
    n_noise: int = option(1500, "Noise vectors per draw, shared by its centres.", ge=1)
    sigma: float = option(0.07, "Noise per coordinate, of 768.", gt=0)
    scale_to_width: bool = option(
        True,
        "Whether noise in features of another width is such that samples lie as far from their centre as in 768.",
    )
    keep: int = option(2, "Candidates kept per centre.", ge=1)
    repeats: int = option(10, "Draws per class; published 10 for CIFAR-10 and 100 for CIFAR-100.", ge=1)
    noise: Literal["sphere", "scaled"] = option(
        "sphere",
        "'sphere': noise around the unit feature, as in the code; 'scaled': around the scaled feature, with sigma in "
        "units of the class embeddings, as in the paper.",
    )
    pooled: bool = option(
        False,
        "Whether neighbours are looked for among the features of all classes, as the paper writes it, and not of the "
        "sample's own, as in the code.",
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        check_at_most(self, ("pick", "select"), ("keep", "n_noise"))
        return self

    def fitted(
        self, images: int, scale: float, width: int = PUBLISHED_WIDTH, bank: int | None = None
    ) -> BoundaryOptions:
        """The sampler's options for a class of that many images whose anchor has length `scale`.

        Args:
            width: D, of the teacher's features.
            bank: features that neighbours are looked for among; default `images`.
        """
        share, bank = min(1.0, images / FULL_CLASS), bank or images
        select = min(images, max(1, round(self.select * share)))
        return BoundaryOptions(
            k=min(bank, max(2, round(self.k * min(1.0, bank / FULL_CLASS)))),
            select=select,
            pick=min(select, max(1, round(self.pick * share))),
            n_noise=self.n_noise,
            sigma=self.deviation(width) / (1.0 if self.noise == "sphere" else max(scale, 1e-12)),
            keep=self.keep,
            repeats=self.repeats,
            renormalise=self.noise == "sphere",
        )

    def deviation(self, width: int) -> float:
        """The noise per coordinate among D = `width` features.

        Of `n_noise` noises those are kept whose candidate is farthest from the class, which is where e points away from
        the centre c: of the component along c, e.c, about the lowest values are kept, -q. Such a candidate has the
        angle a from c with

            tan a = sigma sqrt(D - 1) / (1 - q sigma)

        and sigma here is what gives the angle that the published one has for D = 768: cosine 0.38. Noise of one length,
        sigma sqrt(D), would not do: the fewer the coordinates, the more of it is the choice among candidates. Where
        nothing puts candidates back on the sphere, and for noise so large that it turns the centre round, it is the
        length that is kept.
        """
        if not self.scale_to_width or width == PUBLISHED_WIDTH:
            return self.sigma
        q = _largest_of(self.n_noise, self.keep)
        if self.noise == "scaled" or q * self.sigma >= 1:
            return self.sigma * math.sqrt(PUBLISHED_WIDTH / width)
        tangent = self.sigma * math.sqrt(PUBLISHED_WIDTH - 1) / (1 - q * self.sigma)
        return tangent / (math.sqrt(max(1, width - 1)) + q * tangent)


def _largest_of(n: int, keep: int) -> float:
    """About the mean of the `keep` largest of n standard normal numbers (Blom's formula); at least 0."""
    ranks = torch.arange(n - keep + 1, n + 1, dtype=torch.float64)
    return max(0.0, float(torch.special.ndtri((ranks - 0.375) / (n + 0.25)).mean()))


class TeacherOutlierOptions(Record):
    """How both kinds are made; the published values."""

    boundary: TeacherBoundaryOptions = option(
        TeacherBoundaryOptions(), "How boundary samples are drawn around the teacher's features."
    )
    num_latents: int = option(300, "Latents to denoise, evenly divided over the classes, at least one each.", ge=1)
    project: bool | None = option(
        None,
        "Whether boundary samples are projected to the conditioning space; default yes, but on Stable Diffusion only "
        "where the widths differ.",
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

    def check(self, context: PrepareContext) -> None:
        """Refuse, before anything is trained, a teacher that does not fit, and widths that must agree and do not.

        Raises:
            ConfigError: as `TeacherSource.check`; or `project` is False, and the widths are not equal.
        """
        width, form = self.teacher.check(context), known_form(context, self.diffusion)
        if form is not None:
            self._projects(width, form.width)

    def _make_boundary(self, context: PrepareContext) -> OutlierBank:
        anchors = self._anchors(context)
        scales = torch.linalg.vector_norm(anchors, dim=-1)

        def make(c: int) -> dict[str, Tensor]:
            generator = torch.Generator(context.device).manual_seed(_seed(context, c))
            made = scales[c] * boundary_of(
                self._class_features(context), c, self.options.boundary, scales[c], generator
            )
            return {"vectors": made, "classes": torch.full((len(made),), c)}

        folder = kept_path(context, "boundary", self._boundary_identity(context)).with_suffix("")
        return OutlierBank(**kept_chunks(folder, len(anchors), make, "boundary samples"), num_classes=len(anchors))

    def _make_latents(self, context: PrepareContext) -> OutlierBank:
        o, bank, anchors = self.options, self.boundary(context), self._anchors(context)
        count, size = max(o.num_latents, len(anchors)), PER_PIECE
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
        anchors = self._anchors(context)
        if not self._projects(outliers.shape[1], anchors.shape[1]):
            return outliers
        if self._projection is None:
            self._projection = anchor_projection([unit(f) for f in self._class_features(context)], anchors)
        scale: Tensor = torch.linalg.vector_norm(anchors[classes], dim=-1, keepdim=True)
        return scale * unit(unit(outliers) @ self._projection)

    def _projects(self, features: int, conditions: int) -> bool:
        """Whether boundary samples of that width go through the projection to conditions of that width.

        Raises:
            ConfigError: they must, and `project` forbids it.
        """
        project, equal = self.options.project, features == conditions
        if project is False and not equal:
            raise ConfigError(
                f"project=False takes the teacher's {features} features for conditions of {conditions} numbers, which "
                "must be as many; drop it, or name a teacher of that width"
            )
        published = self.diffusion.model == "stable-diffusion" and equal
        return not published if project is None else project

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
        projects = self._projects(self.teacher(context).width, self._anchors(context).shape[1])
        mine = {**self.options.model_dump(mode="json"), "project": projects, "diffusion": asked, "weights": model}
        return before.model_copy(update={"options": {**before.options, **mine}})


def boundary_of(
    features: list[Tensor], c: int, options: TeacherBoundaryOptions, scale: Tensor, generator: torch.Generator
) -> Tensor:
    """Boundary samples (M, D) around the unit features of class c, given the features (n_c, D) of every class."""
    own, width = features[c], features[c].shape[1]
    if not options.pooled:
        return boundary_outliers(own, options.fitted(len(own), float(scale), width), generator)
    bank = unit(torch.cat(features).float())
    fitted = options.fitted(len(own), float(scale), width, len(bank))
    start = sum(len(before) for before in features[:c])
    rows = torch.arange(start, start + len(own), device=bank.device)
    sparse = Bank(bank).kth(rows, fitted.k).topk(fitted.select).indices
    return around(bank, rows[sparse], fitted, generator)[0]


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
