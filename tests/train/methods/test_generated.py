"""gan, atol, cmg_s, cmg_e: what their stages train, what they leave alone, and that they can be stopped anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import guard
from guard.errors import ConfigError
from tests.composition import stopped_run
from tests.conftest import RECIPES, Arrays
from train.cache import trained_network as kept
from train.engine.forward import Forward
from train.engine.stage_run import StageRun
from train.losses.energy_hinge import EnergyHingeLoss
from train.methods.cmg import ClassMixed
from train.methods.gan import JointGAN

Tiny = dict[str, Any]
NAMES = ["gan", "atol", "cmg_s", "cmg_e"]


def short(four: Arrays) -> Arrays:
    return four[0][::3], four[1][::3]


def records(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def states(g: guard.Guard) -> dict[str, Tensor]:
    return g.module.state_dict()


def differing(a: guard.Guard, b: guard.Guard) -> list[str]:
    return [key for key, value in states(a).items() if not value.equal(states(b)[key])]


# ------------------------------------------------------------------------------------------------- stopped, resumed


@pytest.mark.parametrize(("name", "stage"), [("gan", 0), ("atol", 1), ("cmg_e", 1)])
def test_a_run_that_was_stopped_ends_as_an_uninterrupted_one(
    name: str, stage: int, four: Arrays, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the second epoch of its last stage: weights, GAN, both its optimizers, margins, class means."""
    more = {"gan": {"epochs": 2}, "atol": {"tune_epochs": 2}, "cmg_e": {"tune_epochs": 2}}[name]
    options = {**tiny, **RECIPES[name], "epochs": 1, "augment": "crop+flip", "seed": 5, **more}
    whole = guard.train(short(four), out=tmp_path / "whole", **options)
    out = tmp_path / "stopped"
    with stopped_run(monkeypatch, lambda run, number: (run.index, number) == (stage, 1)):
        guard.train(short(four), out=out, **options)
    torch.manual_seed(99)  # whatever happened in between
    resumed = guard.train(short(four), out=out, resume=True, **options)
    assert not differing(whole, resumed)
    assert resumed.threshold == whole.threshold
    assert records(out) == records(tmp_path / "whole")  # the losses of the GAN are among them


def test_a_run_stopped_while_it_prepares_goes_on_there(
    four: Arrays, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {
        **tiny,
        **RECIPES["cmg_s"],
        "epochs": 1,
        "tune_epochs": 1,
        "cvae": {**RECIPES["cmg_s"]["cvae"], "epochs": 3},
    }
    whole = guard.train(short(four), out=tmp_path / "whole", **options)
    keep, done = kept._keep, []

    def killed(path: Path, network: Any, epochs: int, schedule: kept.Schedule) -> None:
        keep(path, network, epochs, schedule)
        done.append(epochs)
        if done == [1, 2]:
            raise KeyboardInterrupt

    monkeypatch.setattr(kept, "_keep", killed)
    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        guard.train(short(four), out=out, **options)
    resumed = guard.train(short(four), out=out, resume=True, **options)
    assert done == [1, 2, 3]
    assert not differing(whole, resumed)


# ------------------------------------------------------------------------------------------------- what is trained


def test_the_gan_learns_beside_the_classifier(
    four: Arrays, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both networks move in every step, by the images as they are and not as augmented; the classifier sees both
    kinds, and what the generator learns gives its parameters no gradient and moves none of its statistics."""
    learn, moved = JointGAN.learn, []

    def spy(self: JointGAN, batch: Any, module: Any, generator: torch.Generator) -> dict[str, Tensor]:
        assert self.gan is not None
        parts = (self.gan.generator, self.gan.discriminator)
        before = [[p.detach().clone() for p in part.parameters()] for part in parts]
        classifier = {key: value.clone() for key, value in module.classifier.state_dict().items()}
        gradients = [None if p.grad is None else p.grad.clone() for p in module.classifier.parameters()]
        losses = learn(self, batch, module, generator)
        moved.append(
            [
                any(not p.equal(b) for p, b in zip(part.parameters(), old, strict=True))
                for part, old in zip(parts, before, strict=True)
            ]
        )
        assert all(value.equal(classifier[key]) for key, value in module.classifier.state_dict().items())
        for parameter, gradient in zip(module.classifier.parameters(), gradients, strict=True):
            assert gradient is not None
            assert parameter.grad is not None
            assert parameter.grad.equal(gradient)
        assert module.classifier.training
        rows = {image.numpy().tobytes() for image in torch.from_numpy(short(four)[0])}
        assert all(image.numpy().tobytes() in rows for image in batch.images)
        return losses

    monkeypatch.setattr(JointGAN, "learn", spy)
    options = {**tiny, **RECIPES["gan"], "epochs": 2, "augment": "crop"}
    guard.train(short(four), out=tmp_path, **options)
    assert moved
    assert all(all(step) for step in moved)
    assert {"ce", "uniform", "gan_d", "gan_g", "gan_kl"} <= set(records(tmp_path)[0])


def test_the_two_forms_of_the_generators_loss_differ(four: Arrays, tiny: Tiny, tmp_path: Path) -> None:
    made = []
    for variant in ("code", "paper"):
        options = {**tiny, **RECIPES["gan"], "epochs": 1, "variant": variant}
        guard.train(short(four), out=tmp_path / variant, **options)
        made.append(records(tmp_path / variant)[0]["gan_g"])
    assert made[0] > 0  # softplus(-D)
    assert made[1] < 0  # -softplus(D)


def test_atol_has_its_three_terms_and_clips(
    four: Arrays, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, norms = StageRun.step, []

    def spy(self: StageRun, *arguments: Any) -> Any:
        sums = step(self, *arguments)
        if self.stage.name == "auxiliary":
            gradients = [p.grad for p in self.classifier.parameters() if p.grad is not None]
            norms.append(float(torch.stack([g.norm() for g in gradients]).norm()))
        return sums

    monkeypatch.setattr(StageRun, "step", spy)
    guard.train(short(four), out=tmp_path, **{**tiny, **RECIPES["atol"], "epochs": 1})
    last = records(tmp_path)[-1]
    assert last["stage"] == "auxiliary"
    assert {"smoothed_ce", "uniform", "supcon"} <= set(last)
    assert "ce" not in last
    assert min(last["smoothed_ce"], last["uniform"], last["supcon"]) > 0
    assert max(norms) <= 1 + 1e-4
    assert max(norms) > 0.99  # some step was clipped


@pytest.mark.parametrize("name", ["cmg_s", "cmg_e"])
@pytest.mark.parametrize("augment", ["none", "crop+flip"])
def test_cmg_trains_the_head_and_nothing_else(name: str, augment: str, four: Arrays, tiny: Tiny) -> None:
    """Its classifier is the plain one of the same seed, to the bit, but for the head."""
    common = {**tiny, "augment": augment, "epochs": 1}
    plain = guard.train(short(four), head="c_plus_1" if name == "cmg_s" else "linear", score="energy", **common)
    tuned = guard.train(short(four), **{**RECIPES[name], "tune_lr": 1e-2, "score": "energy", **common})
    assert differing(plain, tuned) == ["classifier.head.linear.weight", "classifier.head.linear.bias"]
    assert any("running_var" in key for key in states(tuned))


def test_a_head_with_an_embedding_of_its_own_learns_it(four: Arrays, tiny: Tiny) -> None:
    common = {**tiny, "epochs": 1, "head": "hypersphere", "score": "energy"}
    plain = guard.train(short(four), **common)
    tuned = guard.train(short(four), **{**RECIPES["cmg_e"], "tune_lr": 1e-2, **common})
    changed = differing(plain, tuned)
    assert any("weight" in key for key in changed)
    assert all(key.startswith("classifier.head.") for key in changed)


def test_pooled_features_from_the_cache_teach_the_head_the_same(
    four: Arrays, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**tiny, **RECIPES["cmg_s"], "epochs": 1, "tune_lr": 1e-2}
    pooled, passes = Forward.pooled, []

    def counted(self: Forward, images: Tensor) -> Any:
        passes.append(len(images))
        return pooled(self, images)

    monkeypatch.setattr(Forward, "pooled", counted)
    cached = guard.train(short(four), **options)
    with_cache = sum(passes)
    passes.clear()
    monkeypatch.setattr(StageRun, "can_freeze", lambda self: False)
    whole = guard.train(short(four), **options)
    assert sum(passes) > with_cache
    key = "classifier.head.linear.weight"
    torch.testing.assert_close(states(cached)[key], states(whole)[key], rtol=0.02, atol=0.005)  # bfloat16 or not


def test_a_class_for_mixed_images_tells_them_from_digits(four: Arrays, tiny: Tiny) -> None:
    """The rejection class holds pseudo images that training has not shown."""
    seen: list[ClassMixed] = []
    prepare = ClassMixed.prepare

    def spy(self: ClassMixed, context: Any) -> None:
        prepare(self, context)
        seen.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClassMixed, "prepare", spy)
        g = guard.train(four, **{**tiny, **RECIPES["cmg_s"], "tune_lr": 1e-2, "tune_epochs": 12})
    pseudo = seen[0].sample(None, torch.Generator().manual_seed(77)).data.numpy()  # type: ignore[arg-type]
    inside, outside = (g.predict(images).ood_score for images in (four[0][g.splits["test"]], pseudo))
    above = (outside[:, None] > inside).mean()
    assert above > 0.9
    assert g.manifest.metrics["test_accuracy"] > 0.8


def test_cmg_energy_takes_its_margins_from_quantiles(four: Arrays, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    loss = EnergyHingeLoss.loss

    def spy(self: EnergyHingeLoss, batch: Any) -> dict[str, Tensor]:
        seen.append(self.margins.clone())
        return loss(self, batch)

    monkeypatch.setattr(EnergyHingeLoss, "loss", spy)
    guard.train(short(four), **{**tiny, **RECIPES["cmg_e"], "epochs": 1})
    assert seen[0].isfinite().all()
    assert seen[0][0] < seen[0][1]
    assert all(margins.equal(seen[0]) for margins in seen)


# ------------------------------------------------------------------------------------------------- edges


@pytest.mark.parametrize("name", NAMES)
def test_two_classes_in_grey(name: str, four: Arrays, tiny: Tiny) -> None:
    images, labels = four
    two = labels < 2
    g = guard.train((images[two][:, :14, :, :1], labels[two]), in_chans=1, **{**tiny, **RECIPES[name], "epochs": 1})
    assert g.manifest.preprocess.channels == 1
    assert np.isfinite(g.predict(images[two][:5]).ood_score).all()


def test_a_class_for_outliers_needs_a_head_that_has_one(
    four: Arrays, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StageRun, "epoch", lambda *_: pytest.fail("trained first"))
    with pytest.raises(ConfigError, match="method 'cmg_s' trains head='c_plus_1' or 'mlp_c_plus_1', not 'linear'"):
        guard.train(four, method="cmg_s", head="linear", score="energy", **tiny)


def test_frozen_generators_are_not_in_checkpoints(four: Arrays, tiny: Tiny, tmp_path: Path) -> None:
    from safetensors import safe_open

    guard.train(short(four), out=tmp_path, **{**tiny, **RECIPES["cmg_e"], "epochs": 1, "tune_epochs": 1})
    with safe_open(tmp_path / "checkpoint.safetensors", "pt") as file:
        names = list(file.keys())
    assert any(name.startswith("regulariser1.0/margins") for name in names)
    assert not any(name.startswith("synthesiser1") for name in names)
    assert list((tmp_path / "outliers").glob("cvae-*.safetensors"))
