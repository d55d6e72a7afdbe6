"""The learned link from training to the guard: which score follows from which, and none that is upside down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import guard
from guard.errors import ConfigError
from guard.evaluation.metrics import auroc
from tests.conftest import Arrays
from train.methods import get_method
from train.outliers.store.store import open_store
from train.runs.resolve import score_for

LINKED = ["dream_ood", "bood", "ncis", "vos"]


@pytest.fixture(scope="module")
def shuffled(four: Arrays, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of outliers that are easy to tell."""
    folder = tmp_path_factory.mktemp("link") / "shuffled"
    guard.synth(four, method="patch_shuffle", out=folder, count=120, device="cpu", gallery=False)
    return folder


@pytest.fixture
def falling(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random start of the link that falls, whatever the seed."""
    monkeypatch.setattr("train.losses.energy_logistic._difference", lambda *_, **__: torch.tensor(-1.5))


def trained(four: Arrays, tiny: dict[str, Any], store: Path, **options: Any) -> guard.Guard:
    return guard.train(four, method="dream_ood", outliers=str(store), **{**tiny, "lr": 0.05, **options})


def outlier_auroc(g: guard.Guard, four: Arrays, store: Path) -> float:
    images = open_store(store).images()
    outliers = images.take(np.arange(len(images)))
    return auroc(g.predict(four[0]).ood_score, g.predict(outliers).ood_score)


@pytest.mark.usefixtures("falling")
def test_outliers_that_were_trained_on_are_never_ranked_upside_down(
    four: Arrays, tiny: dict[str, Any], shuffled: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    g = trained(four, tiny, shuffled, link_init="random", out=out)
    assert g.manifest.score == "energy_logistic"
    assert outlier_auroc(g, four, shuffled) > 0.8
    again = guard.Guard.from_pretrained(out, device="cpu")
    assert again.predict(four[0]).ood_score.tolist() == g.predict(four[0]).ood_score.tolist()


@pytest.mark.usefixtures("falling")
def test_a_score_that_cannot_follow_the_link_is_refused(four: Arrays, tiny: dict[str, Any], shuffled: Path) -> None:
    with pytest.raises(ConfigError, match="the learned link falls"):
        trained(four, tiny, shuffled, link_init="random", score="max_logit", epochs=2)


@pytest.mark.parametrize("name", LINKED)
def test_the_default_score_reads_the_energy_that_was_trained(name: str) -> None:
    """Of the methods whose papers have the plain energy; VOS trains with class weights and reports the plain one."""
    method = get_method(name)
    options: Any = method.Options()
    assert (options.energy, options.link, options.link_init) == (
        "weighted" if name == "vos" else "plain",
        "linear",
        "positive",
    )
    assert score_for(method(options), None, {}).name == "energy"
    if name != "vos":
        weighted: Any = method.Options(energy="weighted")  # type: ignore[call-arg]
        assert score_for(method(weighted), None, {}).name == "energy_logistic"


def test_a_network_for_a_link_is_kept_and_exported(
    four: Arrays, tiny: dict[str, Any], shuffled: Path, tmp_path: Path
) -> None:
    g = trained(four, tiny, shuffled, link="mlp", score="energy_logistic", epochs=2, out=tmp_path / "run")
    assert outlier_auroc(g, four, shuffled) > 0.6
    loaded = guard.Guard.from_pretrained(tmp_path / "run", device="cpu")
    exported = guard.load(guard.export(g, tmp_path / "g.onnx"), device="cpu")
    said = g.predict(four[0][:8]).ood_score
    assert loaded.predict(four[0][:8]).ood_score.tolist() == said.tolist()
    np.testing.assert_allclose(exported.predict(four[0][:8]).ood_score, said, rtol=1e-3, atol=1e-3)
