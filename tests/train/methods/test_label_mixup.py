"""label_mixup end to end on a diffusion model that is trained until its digits can be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import guard
from guard.data import load
from tests.conftest import Arrays
from train.generators.diffusion import DiffusionOptions, make_diffusion
from train.methods.label_mixup import LabelMixupImages
from train.outliers.base import IDBatch, PrepareContext
from train.outliers.store.store import open_store

DIFFUSION: dict[str, Any] = {"epochs": 40, "width": 16, "batch_size": 32}
PER_CLASS = 24
PER_PAIR = 24


@pytest.fixture(scope="module")
def folder(four: Arrays, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a diffusion model of the digits 0-3."""
    folder = tmp_path_factory.mktemp("label_mixup") / "diffusion"
    make_diffusion(context(four, folder), options(folder))
    return folder


def options(folder: Path) -> DiffusionOptions:
    return DiffusionOptions(conditioning="label", folder=str(folder), **DIFFUSION)


def context(four: Arrays, folder: Path) -> PrepareContext:
    return PrepareContext(None, load(four), folder.parent, 0, torch.device("cpu"))  # type: ignore[arg-type]


def test_stable_diffusion_up_to_a_trained_guard(
    four: Arrays, tiny: dict[str, Any], tiny_pipeline: Path, tmp_path: Path
) -> None:
    few = four[0][:160], four[1][:160]
    stable = {"diffusion": {"model": "stable-diffusion", "pipeline": str(tiny_pipeline), "sampling_steps": 2}}
    g = guard.train(
        few, method="label_mixup", store_size=16, normalise="mean", out=tmp_path, **{**tiny, **stable, "epochs": 1}
    )
    pool = open_store(tmp_path / "outliers" / "label_mixup").images()
    assert pool.array is not None
    assert pool.array.shape == (16, 16, 16, 3)  # decoded at 32 pixels
    assert len({image.tobytes() for image in pool.array}) == 16
    assert np.isfinite(g.predict(four[0][:10]).ood_score).all()


@pytest.mark.slow
def test_mixtures_lie_between_their_classes(four: Arrays, folder: Path, trained: Any) -> None:
    classifier = trained("plain")
    model = make_diffusion(context(four, folder), options(folder))
    labels = torch.arange(4).repeat_interleave(PER_CLASS)
    pure = model.sample(model.condition(labels), labels, torch.Generator().manual_seed(0))
    of_pure = classifier.predict(pure.numpy()).probabilities
    by_class = np.stack([of_pure[labels.numpy() == c].mean(0) for c in range(4)])  # (class asked for, class seen)
    assert (by_class.argmax(1) == np.arange(4)).all()
    synthesiser = LabelMixupImages(6 * PER_PAIR, 4, diffusion=options(folder).model_dump())
    synthesiser.prepare(context(four, folder))
    none = IDBatch(torch.zeros(4, 16, 16, 3, dtype=torch.uint8), torch.arange(4))
    made = synthesiser.sample(none, torch.Generator().manual_seed(1))
    assert made.parents is not None
    parents = made.parents.numpy()
    of_mixed = classifier.predict(made.data.numpy()).probabilities
    between = []
    for a in range(4):
        for b in range(4):
            if a != b:
                mixed = of_mixed[((parents == (a, b)) | (parents == (b, a))).all(1)]
                assert len(mixed) == PER_PAIR
                between.append(by_class[b, a] < mixed[:, a].mean() < by_class[a, a])
    assert np.mean(between) >= 0.75
    own = np.take_along_axis(of_mixed, parents, 1).sum(1).mean()
    assert own > 0.65  # 0.5 of four classes by chance
    assert of_mixed.max(1).mean() < of_pure.max(1).mean() - 0.05
