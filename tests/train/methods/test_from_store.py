"""MLM, DMR, DMR+MLM, DMR+KIRBY and KIRBY through guard.train: stores, an untouched classifier, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import guard
from guard.errors import ConfigError
from guard.evaluation import metrics
from guard.scores.rejection import Rejection, outlier_logit
from tests.conftest import HEAD, PAIR, Arrays
from train.methods import get_method
from train.methods.from_store import shared_options
from train.outliers.base import get_synthesiser
from train.outliers.store.store import open_store

METHODS = ["mlm", "dmr", "dmr_mlm", "dmr_kirby", "kirby"]


@pytest.fixture(scope="module")
def plain(four: Arrays, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a plain classifier."""
    out = tmp_path_factory.mktemp("plain") / "run"
    guard.train(
        four, method="plain", score="energy", backbone="wrn10_2", epochs=2, batch_size=32, device="cpu", out=out
    )
    return out


def options(name: str, *, given: bool = False) -> dict[str, Any]:
    """`given`: where ``outliers=`` names the images, so that the method makes none."""
    own = {} if given else {"store_size": HEAD["store_size"], **({} if name == "kirby" else PAIR)}
    head = {key: value for key, value in HEAD.items() if key != "store_size"}
    return {**head, **own, "backbone": "wrn10_2", "batch_size": 32, "device": "cpu"}


@pytest.mark.parametrize("name", METHODS)
def test_labels_and_probabilities_stay_the_classifiers_to_the_bit_and_the_graph_decides_alike(
    name: str, plain: Path, four: Arrays, tmp_path: Path
) -> None:
    images = four[0][:120]
    before = guard.Guard.from_pretrained(plain, device="cpu").predict(images)
    g = guard.train(four, method=name, init=plain, out=tmp_path / "run", **options(name))
    after = g.predict(images)
    assert np.array_equal(before.label, after.label)
    assert np.array_equal(before.probabilities, after.probabilities)
    assert g.manifest.score == "rejection"
    assert np.ptp(after.ood_score) > 0
    stores = sorted(p.name for p in (tmp_path / "run" / "outliers").iterdir())
    assert stores == (["dmr_mlm", "kirby"] if name == "dmr_kirby" else [name])
    assert [len(open_store(tmp_path / "run" / "outliers" / store)) for store in stores] == [64] * len(stores)
    graph = guard.export(g, tmp_path / "guard.onnx")
    result = guard.verify(graph, against=g, data=(images, four[1][:120]))
    assert result.flag_flips == 0
    assert result.label_changes == 0


def test_given_outliers_replace_those_of_the_method(plain: Path, four: Arrays, tmp_path: Path) -> None:
    own = guard.train(four, method="kirby", init=plain, out=tmp_path / "a", **options("kirby"))
    store = tmp_path / "a" / "outliers" / "kirby"
    again = guard.train(
        four, method="kirby", init=plain, out=tmp_path / "b", outliers=str(store), **options("kirby", given=True)
    )
    assert not (tmp_path / "b" / "outliers").exists()
    assert np.array_equal(own.predict(four[0]).ood_score, again.predict(four[0]).ood_score)
    other = guard.train(four, method="kirby", init=plain, outliers="patch_shuffle", **options("kirby", given=True))
    assert not np.array_equal(own.predict(four[0]).ood_score, other.predict(four[0]).ood_score)


def test_the_head_tells_kirbys_images_from_the_others(plain: Path, four: Arrays, tmp_path: Path) -> None:
    o = {**options("kirby"), "store_size": 200, "tune_epochs": 20, "hidden": 64, "tune_lr": 0.05}
    g = guard.train(four, method="kirby", init=plain, out=tmp_path / "run", **o)
    pool = open_store(tmp_path / "run" / "outliers" / "kirby").images()
    assert pool.array is not None
    auroc = metrics.auroc(g.predict(four[0]).ood_score, g.predict(pool.array).ood_score)
    assert auroc > 0.8


def test_a_multiclass_head_scores_by_the_odds_of_its_last_class(plain: Path, four: Arrays) -> None:
    g = guard.train(four, method="kirby", init=plain, head_kind="multiclass", ratio=0.25, **options("kirby"))
    score = g.module.score
    assert isinstance(score, Rejection)
    assert score.mlp is not None
    assert score.mlp[2].out_features == 5
    outputs = g.module.eval().outputs(torch.from_numpy(four[0][:50]))
    outputs = score.mlp(outputs.features).detach().double()
    p = outputs.softmax(-1)[:, -1]
    expected = (p / (1 - p)).log()
    np.testing.assert_allclose(g.predict(four[0][:50]).ood_score, expected.numpy(), rtol=1e-4, atol=1e-4)
    one = torch.randn(4, 1)
    assert outlier_logit(one).equal(one[:, 0])


def test_a_killed_run_goes_on_in_its_store_and_ends_alike(
    plain: Path, four: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = guard.train(four, method="dmr", init=plain, out=tmp_path / "whole", **options("dmr"))
    from train.engine.stage_run import StageRun

    run_epoch = StageRun.epoch

    def killed(self: StageRun, epoch: int) -> dict[str, float]:
        if epoch == 1:
            raise KeyboardInterrupt
        return run_epoch(self, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(StageRun, "epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            guard.train(four, method="dmr", init=plain, out=tmp_path / "killed", **options("dmr"))
    resumed = guard.train(four, method="dmr", init=plain, out=tmp_path / "killed", resume=True, **options("dmr"))
    assert np.array_equal(whole.predict(four[0]).ood_score, resumed.predict(four[0]).ood_score)


def test_methods_hand_their_options_to_the_synthesiser() -> None:
    for name in ("mlm", "dmr", "dmr_mlm", "kirby"):
        assert set(get_synthesiser(name).Options.model_fields) <= set(get_method(name).Options.model_fields)
    chosen = get_method("dmr_mlm").Options(k=3, pair={"width": 7}, hidden=9)
    handed = shared_options(chosen, get_synthesiser("dmr_mlm").Options)
    assert handed["k"] == 3
    assert handed["pair"].width == 7
    assert "hidden" not in handed
    assert (
        get_method("dmr_mlm").Options().model_dump().items()
        >= get_synthesiser("dmr_mlm").Options().model_dump().items()
    )


def test_the_rejection_score_belongs_to_methods_that_train_it(four: Arrays) -> None:
    with pytest.raises(ConfigError, match="score 'rejection' is learned by method 'rejection', not by 'plain'"):
        guard.train(four, method="plain", score="rejection")
    with pytest.raises(ConfigError, match="score 'energy_logistic' is learned by method 'vos', not by 'dmr'"):
        guard.train(four, method="dmr", score="energy_logistic")


def test_coding_is_matched_in_stores_and_not_online(four: Arrays) -> None:
    assert get_method("dmr").Options(match="coding").match == ("coding",)
    with pytest.raises(ConfigError, match="is for stores"):
        guard.train(four, method="dmr", match="coding", outliers="patch_shuffle", **options("dmr", given=True))
