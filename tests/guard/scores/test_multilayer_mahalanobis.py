"""The Mahalanobis distance of several layers against its formula, alone, combined, and through a mirror."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import guard
from guard.errors import ConfigError
from guard.graph.layer_maps import watching
from guard.graph.module import GuardModule
from guard.scores import create_score
from guard.scores.layer_statistics import means_and_deviations
from tests.conftest import Arrays
from tests.references import scores as reference
from train.classifiers.fresh import build_classifier
from train.features.extract import fit_score

NAME = "multilayer_mahalanobis"
LAYERS = ("backbone.blocks.0", "backbone.blocks.1")  # of three stages' ends


@pytest.fixture(scope="module")
def run(four: Arrays, tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a network with a combination."""
    out = tmp_path_factory.mktemp("run") / "run"
    guard.train(four, score=f"energy+{NAME}", out=out, **{**tiny, "epochs": 1, "augment": "crop+flip"})
    return out


@pytest.fixture
def module(four: Arrays) -> GuardModule:
    torch.manual_seed(0)
    classifier = build_classifier("wrn10_2", "linear", 4, in_chans=3, image_size=16).eval()
    normalisation = guard.manifest.Normalisation(mean=(0.5,) * 3, std=(0.25,) * 3)
    return GuardModule(classifier, create_score(NAME), normalisation)


def seen(module: GuardModule, images: np.ndarray) -> np.ndarray:
    """z (N, K + D) by numpy, from what the layers give."""
    maps: dict[str, np.ndarray] = {}

    def see(name: str, output: torch.Tensor) -> None:
        maps[name] = output.numpy().copy()

    with torch.no_grad(), watching(module.classifier, LAYERS, see):
        features = module.classifier(module.normalise(torch.from_numpy(images))).features.numpy()
    parts = []
    for name in LAYERS:
        parts += [maps[name].mean((2, 3)), maps[name].std((2, 3))]
    return np.concatenate([reference.radially_normalised(part.astype(float), 1) for part in (*parts, features)], 1)


def test_against_its_definition(module: GuardModule, four: Arrays) -> None:
    images, labels = four
    fit_score(module, guard.data.load((images[:200], labels[:200])))
    assert module.score.layers == LAYERS
    means, covariance = reference.tied_covariance(seen(module, images[:200]), labels[:200], 1e-4)
    expected = reference.mahalanobis(seen(module, images[200:240]), means, covariance)
    with torch.no_grad():
        found = module(torch.from_numpy(images[200:240]), torch.zeros(()))[2].numpy()
    np.testing.assert_allclose(found, expected, rtol=2e-3)  # a covariance of 576 numbers from 200 images


def test_a_wide_layer_is_read_at_equal_distances() -> None:
    layer = torch.randn(3, 10, 4, 5, generator=torch.Generator().manual_seed(0))
    mean, deviation = means_and_deviations(layer, 4)
    torch.testing.assert_close(mean, layer[:, [0, 3, 6, 9]].mean((2, 3)))
    torch.testing.assert_close(deviation, layer[:, [0, 3, 6, 9]].std((2, 3), correction=0))
    tokens = layer.flatten(2).transpose(1, 2)  # (N, L, c)
    torch.testing.assert_close(means_and_deviations(tokens, 10)[1], layer.std((2, 3), correction=0))
    assert not means_and_deviations(layer[:, :, 0, 0], 10)[1].any()  # vectors have one position


def test_it_is_part_of_a_combination_which_keeps_its_layers(run: Path, four: Arrays, tmp_path: Path) -> None:
    g = guard.load(run, device="cpu")
    assert g.module.score.layers == LAYERS
    images = four[0][:40]
    exported = guard.load(guard.export(g, tmp_path / "guard.onnx", data=four))
    assert exported.manifest.parity.flag_flips == 0
    np.testing.assert_allclose(exported.predict(images).ood_score, g.predict(images).ood_score, rtol=1e-3, atol=1e-3)


def test_named_layers_of_a_part_are_read(run: Path, four: Arrays) -> None:
    options = {"part_options": {NAME: {"layers": ["backbone.blocks.1"], "channels": 8}}}
    g = guard.fit(run, four, score=f"energy+{NAME}", score_options=options, device="cpu")
    assert g.module.score.layers == ("backbone.blocks.1",)
    assert g.module.score.parts()[1].centre.shape == (2 * 8 + 128,)


def test_a_mirrored_guard_reads_the_mean_of_both_summaries(run: Path, four: Arrays) -> None:
    g = guard.fit(run, four, score=f"energy+{NAME}", score_options={"mirror": True}, device="cpu")
    images = four[0][:20]
    mirrored = np.ascontiguousarray(images[:, :, ::-1])
    np.testing.assert_allclose(g.predict(images).ood_score, g.predict(mirrored).ood_score, rtol=1e-3, atol=1e-3)
    module = g.module
    with torch.no_grad():
        both = module.outputs(torch.from_numpy(images)).feature_map
        one, other = (
            torch.cat([module.score.summarise(m) for m in maps_of(module, x)], -1) for x in (images, mirrored)
        )
    assert both is not None
    torch.testing.assert_close(both, (one + other) / 2, rtol=1e-4, atol=1e-5)


def maps_of(module: GuardModule, images: np.ndarray) -> list[torch.Tensor]:
    maps: list[torch.Tensor] = []
    with watching(module.classifier, LAYERS, lambda _, out: maps.append(out.clone())):
        module.classifier(module.normalise(torch.from_numpy(images)))
    return maps


def test_without_a_summary_it_says_what_it_reads() -> None:
    with pytest.raises(ConfigError, match=f"'{NAME}' reads intermediate layers"):
        create_score(NAME).fit(torch.randn(9, 4), torch.randn(9, 2), torch.arange(9) % 2)
