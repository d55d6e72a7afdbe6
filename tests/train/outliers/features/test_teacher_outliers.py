"""OAL's boundary samples and latents: their lengths, classes, conditions, and that a killed run resumes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from guard.data import load
from guard.errors import ConfigError
from guard.heads import unit
from guard.record import parse_options
from tests.conftest import Arrays
from tests.toy_diffusion import SHAPE, WIDTH, ToyDiffusion
from train.generators.diffusion import DiffusionOptions, register_diffusion
from train.outliers.base import PrepareContext
from train.outliers.features.teacher_outliers import (
    TeacherBoundaryOptions,
    TeacherOutlierOptions,
    TeacherOutliers,
    anchor_projection,
    boundary_of,
    class_features,
)
from train.runs.synth import untrained
from train.teacher import Teacher

CPU = torch.device("cpu")
BOUNDARY: dict[str, Any] = {"n_noise": 40, "repeats": 2, "scale_to_width": False}
OPTIONS: dict[str, Any] = {"boundary": BOUNDARY, "num_latents": 22}


class Wide(ToyDiffusion):
    """Conditions as wide as wrn16_2's features."""

    width = 128


@pytest.fixture
def models() -> Iterator[list[ToyDiffusion]]:
    """The toy models made in the test, "toy" and "wide"."""
    made: list[ToyDiffusion] = []

    def factory(kind: type[ToyDiffusion]) -> Callable[..., ToyDiffusion]:
        def make(context: PrepareContext, options: DiffusionOptions) -> ToyDiffusion:
            made.append(kind(context, options))
            return made[-1]

        return make

    register_diffusion("toy", factory(ToyDiffusion))
    register_diffusion("wide", factory(Wide))
    yield made
    register_diffusion("toy", ToyDiffusion)


@pytest.fixture
def context(four: Arrays, tmp_path: Path) -> PrepareContext:
    data = load((four[0][:160], four[1][:160]))
    torch.manual_seed(0)
    return PrepareContext(untrained(data, CPU), data, tmp_path, 0, CPU)


def outliers(context: PrepareContext, diffusion: str = "toy", batch: int = 8, **options: Any) -> TeacherOutliers:
    """Those of an untrained teacher, whose features still tell digits apart."""
    teacher = Teacher(context.module, "untrained")
    return TeacherOutliers(
        lambda _: teacher,  # type: ignore[arg-type]
        TeacherOutlierOptions(**{**OPTIONS, **options}),
        DiffusionOptions(model=diffusion, sampling_batch=batch),
    )


def scales(context: PrepareContext) -> Tensor:
    return torch.arange(1.0, 5)  # the toy's anchors


# ------------------------------------------------------------------------------------------------- options


def test_the_published_values_belong_to_500_images_a_class_and_smaller_classes_keep_their_share() -> None:
    for images in (500, 5000):
        full = TeacherBoundaryOptions().fitted(images, 0.4)
        assert (full.k, full.select, full.pick, full.n_noise, full.sigma) == (300, 50, 50, 1500, 0.07)
        assert (full.keep, full.repeats, full.renormalise) == (2, 10, True)
    small = TeacherBoundaryOptions().fitted(80, 0.4)
    assert (small.k, small.select, small.pick) == (48, 8, 8)
    for images in (1, 2, 3):
        least = TeacherBoundaryOptions().fitted(images, 0.4)
        assert max(least.k, least.select) <= images
    scaled = TeacherBoundaryOptions(noise="scaled").fitted(500, 0.4)
    assert (scaled.sigma, scaled.renormalise) == (pytest.approx(0.175), False)


@pytest.mark.parametrize("spread", [0.2, 0.5])
def test_boundary_samples_lie_as_far_from_their_class_in_any_width(spread: float) -> None:
    """The cosine to the nearest feature, in a class of features that have one cosine with their mean in every width."""

    def nearest(width: int, **options: Any) -> float:
        generator = torch.Generator().manual_seed(0)
        mean = unit(torch.randn(width, generator=generator))
        rows = unit(mean + spread * torch.randn(200, width, generator=generator) / width**0.5)
        asked = TeacherBoundaryOptions(repeats=1, pick=10, **options)
        made = boundary_of([rows], 0, asked, torch.tensor(1.0), generator)
        return float((made @ rows.T).amax(-1).mean())

    published = nearest(768)
    assert 0.33 < published < 0.43
    for width in (64, 128, 1024):
        assert abs(nearest(width) - published) < 0.1
    for width in (64, 128):
        assert nearest(width, scale_to_width=False) > published + 0.25
    assert nearest(64, sigma=0.01) > nearest(64, sigma=0.05) > nearest(64)


def test_noise_that_nothing_puts_back_on_the_sphere_keeps_its_length() -> None:
    for options in (TeacherBoundaryOptions(noise="scaled"), TeacherBoundaryOptions(sigma=0.5)):
        assert options.deviation(768) == options.sigma
        assert options.deviation(48) == pytest.approx(4 * options.sigma)


def test_neighbours_can_be_looked_for_among_all_classes() -> None:
    """Beside another class's dense features, a class's sparse feature is sparse no more; samples keep their class."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.eye(8)[:2]
    own = unit(torch.cat([corner[0] + 0.02 * torch.randn(30, 8, generator=generator), corner[1:]]))
    far = unit(-corner[0] + 0.3 * torch.eye(8)[3])
    own = torch.cat([own, far[None]])  # its last two rows lie alone, one of them in the other class
    other = unit(corner[1] + 0.02 * torch.randn(30, 8, generator=generator))
    asked = {"n_noise": 20, "repeats": 4, "keep": 1, "sigma": 0.001, "scale_to_width": False}
    # of 32 images: k = 3, select = 2, pick = 2
    counts = {"k": 60, "select": 25, "pick": 25}

    def beside(pooled: bool) -> set[int]:
        options = TeacherBoundaryOptions(**asked, **counts, pooled=pooled)
        made = boundary_of([own, other], 0, options, torch.tensor(1.0), generator)
        return set((made @ own.T).argmax(-1).tolist())

    assert beside(pooled=False) == {30, 31}
    assert 31 in beside(pooled=True)
    assert 30 not in beside(pooled=True)


# ------------------------------------------------------------------------------------------------- boundary samples


def test_boundary_samples_have_the_length_of_their_classes_anchor_and_lie_beside_their_class(
    context: PrepareContext, models: list[ToyDiffusion]
) -> None:
    bank = outliers(context, boundary={**BOUNDARY, "sigma": 0.02}).boundary(context)
    assert bank.counts.tolist() == [2 * 4 * 2] * 4  # repeats x pick x keep
    torch.testing.assert_close(bank.vectors.norm(dim=-1), scales(context)[bank.classes])
    features = class_features(Teacher(context.module, ""), context)
    nearest = torch.stack([(unit(bank.vectors) @ unit(f).T).amax(-1) for f in features], -1)
    assert (nearest.argmax(-1) == bank.classes).float().mean() > 0.8


def test_noise_around_scaled_features_is_as_the_paper_has_it(
    context: PrepareContext, models: list[ToyDiffusion]
) -> None:
    """Distance sigma sqrt(D) from |T(c)| z of some z of the class, whatever |T(c)| is."""
    bank = outliers(context, boundary={**BOUNDARY, "noise": "scaled", "sigma": 0.1}).boundary(context)
    features = class_features(Teacher(context.module, ""), context)
    expected = 0.1 * 128**0.5
    for c, rows in enumerate(features):
        centres = scales(context)[c] * torch.nn.functional.normalize(rows, dim=-1)
        distances = torch.cdist(bank.vectors[bank.classes == c], centres).amin(-1)
        assert ((distances > 0.75 * expected) & (distances < 1.3 * expected)).all()


@pytest.mark.parametrize(("few", "many"), [("pick", "select"), ("keep", "n_noise")])
def test_more_of_fewer_is_refused(few: str, many: str) -> None:
    with pytest.raises(ConfigError, match=f"method 'oal': {few} must be at most {many}=5, got 6"):
        parse_options(TeacherBoundaryOptions, {few: 6, many: 5}, "method 'oal'")


def test_class_features_are_the_teachers(context: PrepareContext) -> None:
    features = class_features(Teacher(context.module, ""), context)
    assert [len(rows) for rows in features] == [40] * 4
    assert context.data.array is not None
    images = torch.from_numpy(context.data.array[np.asarray(context.data.labels) == 2].copy())
    with torch.no_grad():
        torch.testing.assert_close(features[2], context.module.outputs(images).features)


# ------------------------------------------------------------------------------------------------- conditions


def test_the_projection_is_least_squares() -> None:
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(30, 6, generator=generator) + c for c in range(3)]
    anchors = torch.randn(3, 4, generator=generator)
    targets = np.concatenate([np.tile(a, (30, 1)) for a in anchors.numpy()])
    expected = np.linalg.lstsq(torch.cat(features).numpy(), targets, rcond=None)[0]
    np.testing.assert_allclose(anchor_projection(features, anchors).numpy(), expected, rtol=2e-3, atol=2e-3)


def test_conditions_of_another_width_are_projected_towards_their_class(
    context: PrepareContext, models: list[ToyDiffusion]
) -> None:
    made = outliers(context, boundary={**BOUNDARY, "sigma": 0.005})
    made.latents(context)
    asked = torch.cat([e for e, _ in models[0].asked])
    classes = torch.cat([c for _, c in models[0].asked])
    assert asked.shape == (22, WIDTH)
    assert classes.bincount().tolist() == [6, 6, 5, 5]
    torch.testing.assert_close(asked.norm(dim=-1), scales(context)[classes])
    anchors = torch.nn.functional.normalize(models[0].table, dim=-1)
    assert ((asked @ anchors.T).argmax(-1) == classes).float().mean() > 0.7


def test_equal_widths_are_no_reason_to_leave_the_projection_out(
    context: PrepareContext, models: list[ToyDiffusion]
) -> None:
    """A teacher's features as wide as a conditioning space point to the anchor of their class only once projected."""

    def own_class_share(**options: Any) -> float:
        outliers(context, "wide", boundary={**BOUNDARY, "sigma": 0.005}, **options).latents(context)
        asked, classes = (torch.cat(part) for part in zip(*models[-1].asked, strict=True))
        return ((asked @ unit(models[-1].table).T).argmax(-1) == classes).float().mean().item()

    assert own_class_share() > 0.7
    assert own_class_share(project=False) < 0.5
    names = sorted(path.name for path in context.folder.glob("latents-*"))
    assert len(names) == 2  # kept apart


def test_only_stable_diffusion_takes_samples_of_its_width_as_they_are(context: PrepareContext) -> None:
    def projects(model: dict[str, Any], widths: tuple[int, int], project: bool | None = None) -> bool:
        options = TeacherOutlierOptions(project=project)
        return TeacherOutliers(None, options, DiffusionOptions(**model))._projects(*widths)  # type: ignore[arg-type]

    stable = {"model": "stable-diffusion", "pipeline": "a/b"}
    assert not projects(stable, (768, 768))
    assert projects(stable, (512, 768))
    assert projects(stable, (768, 768), project=True)
    assert projects({}, (128, 128))
    assert not projects({}, (128, 128), project=False)
    with pytest.raises(ConfigError, match=r"project=False takes the teacher's 512 features for conditions of 768"):
        projects(stable, (512, 768), project=False)


def test_conditions_of_the_same_width_are_the_samples_themselves_where_asked(
    context: PrepareContext, models: list[ToyDiffusion]
) -> None:
    made = outliers(context, "wide", project=False)
    made.latents(context)
    bank = made.boundary(context)
    for e, c in zip(*(torch.cat(part) for part in zip(*models[0].asked, strict=True)), strict=True):
        assert (bank.vectors[bank.classes == c] == e).all(-1).any()
    projected = outliers(context, "wide", project=True)
    projected.latents(context)
    first = models[1].asked[0][0][0]
    assert not (bank.vectors == first).all(-1).any()


# ------------------------------------------------------------------------------------------------- latents


def test_latents_are_averaged_over_channels_and_height(context: PrepareContext, models: list[ToyDiffusion]) -> None:
    seen: list[Tensor] = []
    latents = ToyDiffusion.latents

    def spy(self: ToyDiffusion, e: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
        seen.append(latents(self, e, classes, generator))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ToyDiffusion, "latents", spy)
        bank = outliers(context).latents(context)
    assert bank.vectors.shape == (22, SHAPE[2])
    every = torch.cat(seen)
    assert every.shape == (22, *SHAPE)
    order = (torch.arange(22) % 4).argsort(stable=True)
    expected = torch.tensor([[float(z[:, :, w].mean()) for w in range(SHAPE[2])] for z in every])[order]
    torch.testing.assert_close(bank.vectors, expected)
    assert len(list(context.folder.glob("latents-*/images.png"))) == 1


def test_every_class_has_a_latent(context: PrepareContext, models: list[ToyDiffusion]) -> None:
    assert outliers(context, num_latents=1).latents(context).counts.tolist() == [1] * 4


def test_how_many_are_denoised_at_once_decides_no_latent(context: PrepareContext, models: list[ToyDiffusion]) -> None:
    first = outliers(context, batch=8).latents(context)
    again = outliers(context, batch=3).latents(context)
    assert len([model for model in models if model.asked]) == 1  # found where the first put it
    assert again.vectors.equal(first.vectors)


def test_a_killed_run_goes_on_and_a_finished_one_asks_for_nothing(
    context: PrepareContext, models: list[ToyDiffusion], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.outliers.features.teacher_outliers.PER_PIECE", 8)
    whole = outliers(context).latents(context)
    assert len(models[0].asked) == 3
    elsewhere = PrepareContext(context.module, context.data, tmp_path / "elsewhere", 0, CPU)
    latents = ToyDiffusion.latents

    def killed(self: ToyDiffusion, *arguments: Any) -> Tensor:
        if len(self.asked) == 2:
            raise KeyboardInterrupt
        return latents(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ToyDiffusion, "latents", killed)
        with pytest.raises(KeyboardInterrupt):
            outliers(elsewhere).latents(elsewhere)
    resumed = outliers(elsewhere).latents(elsewhere)
    assert len(models[-1].asked) == 1
    assert resumed.vectors.equal(whole.vectors)
    assert outliers(elsewhere).latents(elsewhere).vectors.equal(whole.vectors)
    assert not models[-1].asked
    other = outliers(elsewhere, num_latents=30).latents(elsewhere)
    assert len(other) == 30
    assert len(list(elsewhere.folder.glob("boundary-*"))) == 1
    assert len(list(elsewhere.folder.glob("latents-*"))) == 2
