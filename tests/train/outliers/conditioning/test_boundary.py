"""Embeddings around the boundary of features: the definition, options fitted to small classes, what is recorded."""

from __future__ import annotations

import json
import logging
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from torch import Tensor

from guard.errors import ArtefactDamagedError
from tests.references import naive_embeddings
from train.outliers.base import PrepareContext
from train.outliers.conditioning.boundary import BoundaryEmbeddingOptions, InlierEmbeddingOptions, boundary_embeddings
from train.outliers.conditioning.encoder import Features
from train.outliers.conditioning.table import Embeddings, EmbeddingTable, class_generator, kept_embeddings

SMALL = {"k": 6, "select": 5, "class_size": 30, "pick": 3, "n_noise": 20, "keep": 2, "repeats": 3}


def some(count: int = 30, width: int = 10) -> Features:
    """Features of 4 classes in turn, each around a direction of its own, of any length."""
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(4 * count) % 4
    centres = torch.randn(4, width, generator=g)
    lengths = 0.5 + 3 * torch.rand(4 * count, 1, generator=g)
    return Features(lengths * (centres[labels] + 0.5 * torch.randn(4 * count, width, generator=g)), labels)


def anchors_of(width: int) -> Tensor:
    return torch.randn(4, width, generator=torch.Generator().manual_seed(1)) * torch.tensor(
        [[0.1], [1.0], [2.0], [5.0]]
    )


@pytest.mark.parametrize("kind", [BoundaryEmbeddingOptions, InlierEmbeddingOptions])
def test_they_are_those_of_the_definition_class_by_class(kind: Any, context: PrepareContext) -> None:
    features, anchors = some(), anchors_of(10)
    options = kind(**SMALL, sigma=0.05)
    made, values = boundary_embeddings(features, anchors, options, context)
    assert made.data.shape == (4 * 3 * 3 * 2, 10)
    assert made.parents.equal(made.classes[:, None])
    for c in range(4):
        g = class_generator(context, c)
        noises, centres = [], []
        for _ in range(3):
            centres.append(torch.randperm(5, generator=g)[:3].tolist())
            noises.append(torch.randn(20, 10, generator=g).double().numpy())
        expected = naive_embeddings.boundary_embeddings(
            features.data[features.labels == c].double().numpy(),
            noises,
            centres,
            k=6,
            select=5,
            sigma=0.05 * (768 / 10) ** 0.5,
            keep=2,
            length=float(anchors[c].norm()),
            inlier=options.inlier,
        )
        np.testing.assert_allclose(made.data[made.classes == c].numpy(), expected, rtol=1e-4, atol=1e-5)
    assert values["per_class"][2]["k"] == 6


def test_they_are_as_long_as_the_anchor_of_their_class(context: PrepareContext) -> None:
    anchors = anchors_of(10)
    made, _ = boundary_embeddings(some(), anchors, BoundaryEmbeddingOptions(**SMALL), context)
    torch.testing.assert_close(made.data.norm(dim=1), anchors.norm(dim=1)[made.classes])


def test_outliers_lie_farther_out_than_inliers(context: PrepareContext) -> None:
    features, anchors = some(), anchors_of(10)
    mean = torch.stack([torch.nn.functional.normalize(features.data[features.labels == c]).mean(0) for c in range(4)])
    cosines = []
    for kind in (BoundaryEmbeddingOptions, InlierEmbeddingOptions):
        made, _ = boundary_embeddings(features, anchors, kind(**SMALL, sigma=0.02), context)
        cosines.append(torch.nn.functional.cosine_similarity(made.data, mean[made.classes]).mean())
    assert cosines[0] < cosines[1] - 0.1


def test_noise_is_longer_in_a_narrow_space_unless_it_is_told_not_to_be(context: PrepareContext) -> None:
    features, anchors = some(), anchors_of(10)
    options = BoundaryEmbeddingOptions(**SMALL, sigma=0.01)
    scaled, plain = (
        boundary_embeddings(features, anchors, options, context, scale_to_width=scale)[1]["per_class"][0]["sigma"]
        for scale in (True, False)
    )
    assert (scaled, plain) == (pytest.approx(0.01 * (768 / 10) ** 0.5), 0.01)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (500, {"k": 300, "select": 50, "pick": 50, "repeats": 5}),  # CIFAR-100, as published
        (5000, {"k": 300, "select": 50, "pick": 50, "repeats": 50}),
        (100, {"k": 60, "select": 10, "pick": 10, "repeats": 5}),
        (10, {"k": 6, "select": 1, "pick": 1, "repeats": 5}),
        (1, {"k": 1, "select": 1, "pick": 1, "repeats": 1}),
    ],
)
def test_neighbours_keep_their_share_of_a_small_class(images: int, expected: dict[str, int]) -> None:
    fitted = BoundaryEmbeddingOptions().fitted(images, 768)
    assert fitted.model_dump(include=set(expected)) == expected
    assert fitted.sigma == 0.07
    assert fitted.renormalise


def test_the_inliers_defaults_are_published_ones() -> None:
    fitted = InlierEmbeddingOptions().fitted(1000, 768)
    wanted = {"k": 300, "select": 1000, "pick": 100, "n_noise": 1500, "sigma": 0.01, "keep": 1, "inlier": True}
    assert fitted.model_dump(include=set(wanted)) == wanted


def test_sigma_is_a_deviation_or_a_variance_and_as_long_in_any_width() -> None:
    assert BoundaryEmbeddingOptions(sigma=0.04, sigma_is="variance").standard_deviation(768) == pytest.approx(0.2)
    narrow = BoundaryEmbeddingOptions(sigma=0.04)
    assert narrow.standard_deviation(48) * 48**0.5 == pytest.approx(0.04 * 768**0.5)
    assert narrow.standard_deviation(48, scale_to_width=False) == 0.04


def test_options_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValidationError, match="pick must be at most select=10, got 50"):
        BoundaryEmbeddingOptions(select=10)
    with pytest.raises(ValidationError, match="k must be at most class_size=100, got 300"):
        BoundaryEmbeddingOptions(class_size=100)


def test_only_the_first_features_of_a_class_are_looked_at(context: PrepareContext) -> None:
    features, anchors = some(), anchors_of(10)
    few = BoundaryEmbeddingOptions(**SMALL, features_per_class=20)
    changed = features.data.clone()
    changed[4 * 20 :] = 100
    first, second = (
        boundary_embeddings(Features(data, features.labels), anchors, few, context)[0]
        for data in (features.data, changed)
    )
    assert first.data.equal(second.data)


def test_there_are_as_many_as_images_to_decode_and_more_only_add_to_them(context: PrepareContext) -> None:
    features, anchors = some(), anchors_of(10)
    options = BoundaryEmbeddingOptions(**{**SMALL, "repeats": None})
    few, many = (boundary_embeddings(features, anchors, options, context, decoded=n)[0] for n in (None, 200))
    for c in range(4):
        mine = [made.data[made.classes == c] for made in (few, many)]
        assert (len(mine[0]), len(mine[1])) == (30, 204)  # a draw gives 6
        assert mine[1][:30].equal(mine[0])
    assert options.fitted(500, 768, decoded=10**6).repeats == 100  # as published, at most
    assert BoundaryEmbeddingOptions().fitted(500, 768, decoded=1000).repeats == 10


def test_images_are_drawn_from_the_first_embeddings_of_each_class_where_asked() -> None:
    classes = torch.tensor([1, 0, 1, 0, 1])
    table = EmbeddingTable(Embeddings(torch.arange(5.0)[:, None], classes, classes[:, None]), 2)
    drawn = table.draw(200, torch.Generator().manual_seed(0), first=1)
    assert set(drawn.data[:, 0].tolist()) == {0.0, 1.0}
    everything = table.draw(200, torch.Generator().manual_seed(0))
    assert set(everything.data[:, 0].tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0}
    assert everything.classes.equal(drawn.classes)


def test_what_was_used_is_logged_in_one_short_line(context: PrepareContext, caplog: pytest.LogCaptureFixture) -> None:
    values = {"step": 0.1, "per_class": [{"k": k, "sigma": 0.25} for k in range(3, 1000)]}
    empty = Embeddings(torch.zeros(1, 2), torch.zeros(1).long(), torch.zeros(1, 1).long())
    with caplog.at_level(logging.INFO, "ood_guard"):
        kept_embeddings(context, "x", BoundaryEmbeddingOptions(), [], lambda: (empty, values))
    assert caplog.messages == ["embeddings: x, 1; step 0.1, k 3 to 999, sigma 0.25"]


class TestKept:
    def test_once_per_seed_options_and_inputs(self, context: PrepareContext) -> None:
        features, anchors, calls = some(), anchors_of(10), []

        def kept(options: BoundaryEmbeddingOptions, given: Features) -> Tensor:
            def make() -> Any:
                calls.append(options)
                return boundary_embeddings(given, anchors, options, context)

            return kept_embeddings(context, "dream_ood", options, [*given, anchors], make).data

        options = BoundaryEmbeddingOptions(**SMALL)
        first = kept(options, features)
        assert kept(options, features).equal(first)
        assert len(calls) == 1
        kept(options.model_copy(update={"keep": 1}), features)
        kept(options, Features(features.data + 1, features.labels))
        assert len(calls) == 3

    def test_the_values_that_were_used_stand_in_the_file(self, context: PrepareContext) -> None:
        features, anchors = some(), anchors_of(10)
        options = BoundaryEmbeddingOptions(**SMALL)
        make = lambda: boundary_embeddings(features, anchors, options, context)  # noqa: E731
        kept_embeddings(context, "dream_ood", options, [*features, anchors], make)
        (path,) = context.folder.iterdir()
        with safe_open(path, "pt") as file:
            values = json.loads(file.metadata()["made"])
        used = {"images": 30, "k": 6, "select": 5, "pick": 3, "n_noise": 20, "keep": 2, "repeats": 3}
        assert {key: values["per_class"][0][key] for key in used} == used
        path.write_bytes(path.read_bytes()[:60])
        with pytest.raises(ArtefactDamagedError, match=r"embeddings-dream_ood-.* is damaged .*remove it"):
            kept_embeddings(context, "dream_ood", options, [*features, anchors], make)


def test_a_table_draws_classes_equally_often_and_rows_of_the_class(context: PrepareContext) -> None:
    features, anchors = some(), anchors_of(10)
    made, _ = boundary_embeddings(features, anchors, BoundaryEmbeddingOptions(**SMALL), context)
    skewed = Embeddings(*(part[16:] for part in made))  # the first class has 2 rows left, the others 18
    shuffle = torch.randperm(len(skewed.data), generator=torch.Generator().manual_seed(1))
    table = EmbeddingTable(Embeddings(*(part[shuffle] for part in skewed)), 4)
    drawn = table.draw(4000, torch.Generator().manual_seed(0))
    assert torch.bincount(drawn.classes, minlength=4).sub(1000).abs().max() < 120

    def rows(embeddings: Embeddings) -> set[tuple[int, ...]]:
        both = zip(embeddings.classes.tolist(), embeddings.data.tolist(), strict=True)
        return {(c, *row) for c, row in both}

    assert rows(drawn) == rows(skewed)  # all of them, each with its class
    assert drawn.data.equal(table.draw(4000, torch.Generator().manual_seed(0)).data)
