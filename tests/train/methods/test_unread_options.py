"""Options that a configuration does not read are refused with the reason, and old names with the new one."""

from __future__ import annotations

from typing import Any

import pytest

import guard
from guard.errors import ConfigError
from guard.record import parse_options
from guard.scores import create_score
from tests.composition import stages_of
from train.generators.latent_pair import register_pair
from train.methods import get_method
from train.outliers.base import create_synthesiser

GIVEN: dict[str, dict[str, Any]] = {
    "label_mixup": {"diffusion": {"width": 8}, "mix_alpha": 0.3, "resize_kernel": "nearest", "store_size": 9},
    "dream_ood": {"sampler": "gaussian", "boundary": {"k": 9}, "encoder": {"epochs": 3}, "store_size": 9},
    "bood": {"share": 0.1, "encoder": {"epochs": 3}},
    "ncis": {"embed": {"pairs": 3}, "invariants": {"epochs": 3}, "variant": "code", "ridge": 0.1},
    "fodfom": {"kinds": "decoded", "edge": {"share": 0.1}, "blurred": {"max_area": 0.3}, "store_size": 9},
    "dmr": {"pair": {"width": 8}, "variant": "code", "lambda_low": 0.5, "reconstruct_id": True, "store_size": 9},
    "mlm": {"pair": {"epochs": 3}, "k": 3, "store_size": 9},
    "dmr_mlm": {"k": 3, "lambda_high": 4.0},
    "dmr_kirby": {"cam_threshold": 0.4, "radius": 3.0, "pair": {"width": 8}},
    "kirby": {"cam_threshold": 0.4, "radius": 3.0, "store_size": 9},
}


@pytest.mark.parametrize(("name", "option"), [(name, option) for name, own in GIVEN.items() for option in own])
def test_what_makes_outliers_is_not_read_where_they_are_given(name: str, option: str) -> None:
    kind = get_method(name)
    method = kind(kind.Options(**{option: GIVEN[name][option]}))
    with pytest.raises(ConfigError, match=rf"method '{name}' does not read {option}=.*where outliers= names"):
        method.check_outliers("phase_mix")
    method.check_outliers(None)
    use = {"tune_epochs": 3, "hidden": 8, "ratio": 0.5, "weight": 0.3, "match": ("contrast",)}
    read = {option: value for option, value in use.items() if option in kind.Options.model_fields}
    kind(kind.Options(**read)).check_outliers("phase_mix")


def test_means_of_latents_are_not_amplified() -> None:
    with pytest.raises(ValueError, match="lambda_low"):
        get_method("mlm").Options(lambda_low=0.5)
    with pytest.raises(ConfigError, match="has no option 'lambda_low'"):
        create_synthesiser("mlm", 4, 3, lambda_low=0.5)
    with pytest.raises(ConfigError, match="has no option 'k'"):
        create_synthesiser("dmr", 4, 3, k=3)


def test_in_distribution_images_are_not_recoded_in_every_step() -> None:
    options = get_method("rejection").Options
    with pytest.raises(ValueError, match="treat_id=True needs match="):
        options(treat_id=True)
    stored = get_method("dmr").Options
    with pytest.raises(ValueError, match=r"treat_id=True is not read with match=\('coding',\)"):
        stored(treat_id=True, match="coding")
    assert stored(treat_id=True, match=("coding", "contrast")).treat_id


def test_npos_reads_the_number_of_classes_where_they_have_banks_of_their_own() -> None:
    with pytest.raises(ValueError, match="classes=3 is not read with pooled=True"):
        get_method("npos").Options(pooled=True, classes=3)


def test_npos_leaves_the_width_of_its_network_to_the_score_that_reads_it() -> None:
    small = {"queue": 30, "k": 5, "select": 5, "n_noise": 9, "keep": 3}
    (stage,) = stages_of("npos", score=create_score("rejection", hidden=24), **small)
    (loss,) = stage.regularisers
    assert loss.network.options.hidden == 24  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"does not read hidden=16 with score 'rejection'.*'hidden': 16"):
        stages_of("npos", score=create_score("rejection", hidden=24), hidden=16, **small)
    (stage,) = stages_of("npos", hidden=16, **small)
    assert stage.regularisers[0].network.options.hidden == 16  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("energy_ft", "finetune_epochs", "tune_epochs"),
        ("mim", "finetune_lr", "tune_lr"),
        ("rejection", "head_epochs", "tune_epochs"),
        ("cmg_e", "head_lr", "tune_lr"),
        ("phase_mix", "tune", "tune_epochs"),
        ("dmr", "pair_folder", "pair={'folder': ...} (--set pair.folder=...)"),
        ("atol", "gan_epochs", "gan={'epochs': ...} (--set gan.epochs=...)"),
        ("gan", "ngf", "gan={'width': ...} (--set gan.width=...)"),
        ("ncis", "diffusion_epochs", "diffusion={'epochs': ...} (--set diffusion.epochs=...)"),
        ("ncis", "diffusion_batch", "diffusion={'batch_size': ...} (--set diffusion.batch_size=...)"),
        ("ncis", "embed_pairs", "embed={'pairs': ...} (--set embed.pairs=...)"),
        ("ncis", "cvpn_lr", "invariants={'lr': ...} (--set invariants.lr=...)"),
        ("dream_ood", "diffusion_model", "diffusion={'pipeline': ...} (--set diffusion.pipeline=...)"),
        ("dream_ood", "k", "boundary={'k': ...} (--set boundary.k=...)"),
        ("oal", "finetune_epochs", "tune_epochs"),
        ("oal", "noise", "boundary={'noise': ...} (--set boundary.noise=...)"),
        ("bood", "encoder_epochs", "encoder={'epochs': ...} (--set encoder.epochs=...)"),
        ("fodfom", "edge_by", "edge={'by': ...} (--set edge.by=...)"),
        ("fodfom", "detector", "blurred={'detector': ...} (--set blurred.detector=...)"),
        ("label_mixup", "alpha", "mix_alpha"),
        ("ncis", "resize", "resize_kernel"),
        ("cmg_s", "cvae_lr", "cvae={'lr': ...} (--set cvae.lr=...)"),
    ],
)
def test_an_old_name_is_refused_with_the_new_one(name: str, old: str, new: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_options(get_method(name).Options, {old: 1}, f"method {name!r}")
    assert f"option {old!r} is now {new}" in str(refused.value)


def test_a_plain_string_names_the_pair() -> None:
    register_pair("mine", lambda *_: pytest.fail("made"))
    assert get_method("dmr").Options(pair="mine").pair.model == "mine"
    assert get_method("dmr").Options().pair.model == "style"


def test_a_pair_that_is_not_there_is_refused_before_images_are_read() -> None:
    with pytest.raises(ConfigError, match=r"option pair.model: unknown pair 'stile'.*did you mean .*'style'"):
        guard.train("no/such/folder", method="dmr", pair="stile")


def test_an_unread_option_is_refused_before_images_are_read() -> None:
    with pytest.raises(ConfigError, match=r"does not read radius=3.0 where outliers= names"):
        guard.train("no/such/folder", method="kirby", radius=3.0, outliers="strokes")


def test_phase_mix_tunes_for_an_eighth_of_the_epochs_or_as_told() -> None:
    for epochs, share in ((30, 4), (10, 1), (1, 1), (100, 13)):
        assert stages_of("phase_mix", epochs=epochs)[1].epochs == share
    assert stages_of("phase_mix", epochs=30, tune_epochs=7)[1].epochs == 7


@pytest.mark.parametrize("option", [{"tune_epochs": 3}, {"tune_lr": 0.2}])
def test_fodfom_tunes_nothing_where_no_classifier_comes_first(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"does not read tune_\w+=.* give epochs= and lr=, or init="):
        stages_of("fodfom", kinds="decoded", **option)
    for more in ({"kinds": "decoded", "initialised": True}, {"kinds": "both"}):
        assert stages_of("fodfom", **more, **option)[-1].name == "tuning"
