"""A store knows the model that made it, and is continued with no other."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guard.errors import ConfigError
from guard.record import knobs
from tests.train.outliers.store.stores import content, held, small
from train.generators.diffusion import DiffusionOptions
from train.generators.diffusion import base as diffusion_base
from train.generators.latent_pair import PairOptions
from train.methods.dmr import MeanLatents
from train.methods.label_mixup import LabelMixupImages
from train.methods.ncis import NCISImageOptions
from train.outliers.base import PrepareContext
from train.outliers.store import fill as fill_module
from train.outliers.store.shards import Rows
from train.outliers.store.store import open_store

FORM: dict[str, Any] = {"width": 8, "batch_size": 16, "sampling_steps": 2, "guidance": 1}


def mixup(folder: Path | str | None, per_draw: int = 16, epochs: int = 1, **options: Any) -> LabelMixupImages:
    named = None if folder is None else str(folder)
    return LabelMixupImages(per_draw, 3, diffusion={"folder": named, "epochs": epochs, **FORM, **options})


@pytest.fixture
def shared(tmp_path: Path, context: PrepareContext) -> Path:
    """A folder with a finished diffusion model."""
    mixup(tmp_path / "shared").prepare(context)
    return tmp_path / "shared"


@pytest.fixture
def decoded(tmp_path: Path, context: PrepareContext, shared: Path) -> Path:
    """A store of 30 images that it made."""
    return small(tmp_path / "s", context, 30, synthesiser=mixup(shared)).folder


def test_a_store_is_not_grown_by_another_model(context: PrepareContext, shared: Path, decoded: Path) -> None:
    before, which = held(decoded), open_store(decoded).card.model
    assert which == hashlib.sha256((shared / "diffusion.safetensors").read_bytes()).hexdigest()[:16]
    shutil.rmtree(shared)
    with pytest.raises(ConfigError, match=rf"made otherwise \(model: '{which}' then, '\w{{16}}' now\)"):
        small(decoded, context, 50, synthesiser=mixup(shared, epochs=2))  # trained for it
    assert (shared / "diffusion.safetensors").exists()
    for count in (30, 50):  # found there
        with pytest.raises(ConfigError, match=rf"made otherwise \(model: '{which}' then, '\w{{16}}' now\)"):
            small(decoded, context, count, synthesiser=mixup(shared))
    assert held(decoded) == before


def test_a_whole_store_needs_its_model_no_more(
    context: PrepareContext, shared: Path, decoded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = held(decoded)
    monkeypatch.setattr(LabelMixupImages, "prepare", lambda *_: pytest.fail("prepared"))
    small(decoded, context, 30, synthesiser=mixup(shared))
    shutil.rmtree(shared)
    small(decoded, context, 30, synthesiser=mixup(shared))
    assert not shared.exists()
    assert held(decoded) == before


def test_a_model_that_is_trained_again_alike_goes_on(
    tmp_path: Path, context: PrepareContext, shared: Path, decoded: Path
) -> None:
    once = small(tmp_path / "once", context, 50, synthesiser=mixup(shared))
    shutil.rmtree(shared)
    assert held(small(decoded, context, 50, synthesiser=mixup(shared)).folder) == held(once.folder)


def test_what_does_not_decide_the_images_is_not_compared(
    tmp_path: Path, context: PrepareContext, shared: Path, decoded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another way to the folder, how a model that is finished there would be trained, how many images fit in memory."""
    monkeypatch.chdir(tmp_path)
    others = {"lr": 0.1, "conditioning": "token", "width": 16, "sampling_batch": 8}
    grown = small(decoded, context, 50, synthesiser=mixup("shared", per_draw=8, epochs=7, **others))
    once = small(tmp_path / "once", context, 50, synthesiser=mixup(shared))
    assert grown.card.per_draw == 16  # as many as when it was begun
    pixels = [store.images().array for store in (grown, once)]
    assert pixels[0] is not None
    assert pixels[1] is not None
    np.testing.assert_allclose(pixels[0].astype(int), pixels[1], atol=1)  # sums in another order
    assert content(grown.folder)["shard-00000.parquet"] == content(once.folder)["shard-00000.parquet"]
    with pytest.raises(ConfigError, match=r"\(options\.diffusion\.guidance: 1\.0 then, 3\.0 now\)"):
        small(decoded, context, 60, synthesiser=mixup(shared, guidance=3))


def test_a_model_of_the_stores_own_is_trained_as_it_was(tmp_path: Path, context: PrepareContext) -> None:
    own = small(tmp_path / "s", context, 30, synthesiser=mixup(None))
    assert own.card.model is not None
    with pytest.raises(ConfigError, match=r"\(options\.diffusion\.lr: 0\.001 then, 0\.01 now\)"):
        small(own.folder, context, 50, synthesiser=mixup(None, lr=0.01))
    small(own.folder, context, 50, synthesiser=mixup(None))


def test_stores_that_do_not_know_their_model_go_on_and_learn_it(
    tmp_path: Path, context: PrepareContext, shared: Path, decoded: Path
) -> None:
    card = json.loads((decoded / "card.json").read_text())
    model = card.pop("model")
    (decoded / "card.json").write_text(json.dumps(card))  # as earlier versions wrote it
    assert small(decoded, context, 30, synthesiser=mixup(shared)).card.model is None
    elsewhere = shared.rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"options\.diffusion\.folder: "):  # nothing else tells models apart there
        small(decoded, context, 50, synthesiser=mixup(elsewhere))
    elsewhere.rename(shared)
    assert small(decoded, context, 50, synthesiser=mixup(shared)).card.model == model == open_store(decoded).card.model


def test_killed_between_shards_it_knows_its_model(
    tmp_path: Path, context: PrepareContext, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = small(tmp_path / "once", context, 50, synthesiser=mixup(shared))
    real = fill_module.write_shard

    def killed(folder: Path, index: int, rows: Rows) -> None:
        if index == 1:
            raise KeyboardInterrupt
        real(folder, index, rows)

    with monkeypatch.context() as patch:
        patch.setattr(fill_module, "write_shard", killed)
        with pytest.raises(KeyboardInterrupt):
            small(tmp_path / "s", context, 50, synthesiser=mixup(shared))
    assert list(content(tmp_path / "s")) == ["shard-00000.parquet"]
    assert open_store(tmp_path / "s").card.model is not None
    assert held(small(tmp_path / "s", context, 50, synthesiser=mixup(shared)).folder) == held(once.folder)


def test_pairs_are_told_apart_as_well(tmp_path: Path, context: PrepareContext) -> None:
    def mlm(**options: Any) -> MeanLatents:
        form = {"width": 4, "latent": 8, "epochs": 1, "folder": str(tmp_path / "pair")}
        return MeanLatents(16, 3, k=2, pair={**form, **options})

    folder = small(tmp_path / "s", context, 20, synthesiser=mlm()).folder
    small(folder, context, 30, synthesiser=mlm(epochs=2, lr=0.1))
    shutil.rmtree(tmp_path / "pair")
    with pytest.raises(ConfigError, match=r"made otherwise \(model: "):
        small(folder, context, 40, synthesiser=mlm(epochs=2))


def test_options_of_models_that_are_not_trained_here_stay_what_they_are(
    tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(diffusion_base._MODELS, "mine", lambda *_: pytest.fail("made"))
    assert not DiffusionOptions(model="mine", folder="x").settled()
    stable = DiffusionOptions(model="stable-diffusion", pipeline=str(tiny_pipeline)).settled()
    assert {"folder", "lr"} <= stable
    assert not {"pipeline", "prompt", "sampling_steps", "guidance"} & stable
    assert DiffusionOptions().settled() == {"folder"}
    assert DiffusionOptions(folder="x").settled() >= DiffusionOptions.training
    for kind in (DiffusionOptions, PairOptions):
        assert kind.training <= set(kind.model_fields)
    assert knobs(NCISImageOptions) == {"diffusion.sampling_batch", "embed.batch_size"}
