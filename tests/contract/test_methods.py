"""What every training method must do, tested for each one that is listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

import guard
from guard.data import load
from guard.errors import ConfigError, UnknownNameError
from guard.graph.module import GuardModule
from guard.heads import list_heads
from guard.manifest import Normalisation
from guard.scores import create_score, list_scores
from tests import toy_diffusion  # noqa: F401  (registers diffusion="toy" of the recipes)
from tests.conftest import RECIPES, Arrays
from train.classifiers.fresh import build_classifier
from train.methods import get_method, list_methods
from train.methods.base import MethodContext, MethodOptions, Stage
from train.outliers.base import IDBatch, PrepareContext

METHODS = list_methods()


def small(name: str) -> dict[str, Any]:
    """The method's own options of `RECIPES`, which make it short."""
    return {key: value for key, value in RECIPES.get(name, {}).items() if key in get_method(name).Options.model_fields}


def stages(name: str, *, initialised: bool = False, **options: Any) -> list[Stage]:
    """The method's stages for ten classes of 30 images and a network of 16 features; default options unless given."""
    method = get_method(name)
    made = method(method.Options(**options))
    context = MethodContext(
        num_classes=10,
        num_features=16,
        map_shape=(16, 2, 2),
        class_counts=(30,) * 10,
        epochs=5,
        lr=0.1,
        batch_size=20,
        seed=0,
        device=torch.device("cpu"),
        outliers={"patch_shuffle": 1.0} if method.wants_outliers == "required" else None,
        initialised=initialised,
        score=create_score(made.score, **made.score_options()),
    )
    return made.stages(context)


@pytest.fixture
def context(tmp_path: Path) -> PrepareContext:
    """An untrained network of ten classes, and 40 random images of 8 x 8."""
    classifier = build_classifier("wrn10_2", "linear", 10, in_chans=3, image_size=8)
    module = GuardModule(classifier, create_score("energy"), Normalisation(mean=(0.5,) * 3, std=(0.25,) * 3))
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    return PrepareContext(module, load((images, np.arange(40) % 10)), tmp_path, 0, torch.device("cpu"))


@pytest.mark.parametrize("name", METHODS)
class TestEveryMethod:
    def test_it_names_its_parts(self, name: str) -> None:
        method = get_method(name)
        assert method.name == name
        assert method.head in list_heads()
        assert method.score in list_scores()
        assert (method.__doc__ or "").strip()

    def test_every_option_has_a_default_and_the_record_is_frozen(self, name: str) -> None:
        options = get_method(name).Options()
        assert isinstance(options, MethodOptions)
        for field in type(options).model_fields:
            with pytest.raises(ValidationError, match="frozen"):
                setattr(options, field, None)

    def test_an_unknown_option_and_a_near_miss_are_named(self, name: str, four: Arrays) -> None:
        with pytest.raises(ConfigError, match=f"method '{name}' has no option 'colour'.*Its options and defaults: "):
            guard.train(four, method=name, colour="red", device="cpu")
        with pytest.raises(UnknownNameError, match=f"did you mean .*'{name}'"):
            get_method(name + "x")

    def test_its_stages_can_be_run(self, name: str) -> None:
        made = stages(name)
        assert made
        assert made[0].trains == "classifier"
        for stage in made:
            assert stage.epochs >= 1
            assert 0 <= stage.start_epoch < stage.epochs
            assert stage.lr > 0
            assert stage.synthesiser is None or stage.regularisers

    def test_a_trained_network_is_not_trained_from_scratch_again(self, name: str) -> None:
        scratch, tuned = stages(name), stages(name, initialised=True)
        if len(scratch) > 1:
            assert [s.name for s in tuned] == [s.name for s in scratch[1:]]

    def test_its_outliers_have_the_shape_of_their_space_and_the_seeds_values(
        self, name: str, context: PrepareContext
    ) -> None:
        batch = IDBatch(torch.randint(0, 256, (20, 8, 8, 3), dtype=torch.uint8), torch.arange(20) % 10)
        for stage in stages(name, **small(name)):
            synthesiser = stage.synthesiser
            if synthesiser is None:
                continue
            synthesiser.prepare(context)
            for _ in range(4):
                synthesiser.observe(torch.randn(100, 16), torch.arange(100) % 10)
            made = []
            for seed in (1, 1, 2):
                generator = torch.Generator().manual_seed(seed)
                synthesiser.start_epoch(1, generator)
                made.append(synthesiser.sample(batch, generator))
            shape, dtype = ((16,), torch.float32) if synthesiser.space == "feature" else ((8, 8, 3), torch.uint8)
            assert all(m.data.shape[1:] == shape and m.data.dtype == dtype and len(m.data) for m in made)
            assert made[0].origin
            assert made[0].data.equal(made[1].data)
            assert not made[0].data.equal(made[2].data)

    def test_it_trains_and_calibrates(self, name: str, four: Arrays, tiny: dict[str, Any]) -> None:
        outliers = "patch_shuffle" if get_method(name).wants_outliers == "required" else None
        g = guard.train(
            (four[0][:160], four[1][:160]), method=name, outliers=outliers, **{**tiny, "epochs": 1, **small(name)}
        )
        assert g.manifest.method == name
        assert np.isfinite(g.threshold)
        assert np.isfinite(g.predict(four[0][:20]).ood_score).all()


def test_every_method_of_the_package_is_listed() -> None:
    assert {"plain", "vos", "oe", "mim", "rejection", "energy_ft", "npos", "ceda", "acet"} | {
        "ascood",
        "gcos",
        "gan",
        "atol",
        "cmg_s",
        "cmg_e",
        "mlm",
        "dmr",
        "dmr_mlm",
        "dmr_kirby",
        "kirby",
        "fodfom",
        "dream_ood",
        "dream_id",
        "bood",
        "oal",
        "ncis",
    } <= set(METHODS)
    assert sorted(METHODS) == METHODS
    assert list_methods("r*") == ["recommended", "rejection", "rotpred"]
