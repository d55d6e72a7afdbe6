"""What every classifier head must do, tested for each one that is listed."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import guard
from guard.errors import ConfigError, ModelError, UnknownNameError
from guard.evaluation import metrics
from guard.heads import create_head, head_class, list_heads
from guard.scores import create_score, get_score, list_scores
from tests.conftest import RECIPES, Arrays
from train.methods import get_method, list_methods

HEADS = list_heads()
# on which the loss depends, with a value that is not the default
OTHER: dict[str, dict[str, Any]] = {
    "linear": {"label_smoothing": 0.1},
    "adacos": {"adaptive": True},
    "arcface": {"scale": 20.0, "margin": 0.3, "fallback": "easy"},
    "cosface": {"scale": 20.0, "margin": 0.2},
    "sphereface": {"margin": 2.0},
    "mlp": {"hidden": 96},
    "mlp_c_plus_1": {"hidden": 96},
    "logitnorm": {"temperature": 0.1},
    "t2fnorm": {"temperature": 0.2},
    "standardised": {"sigma": 1.0},
    "ish": {"share": 0.3, "weight_decay": 1e-4},
    "hypersphere": {"dim": 16, "temperature": 0.2, "momentum": 0.9, "compactness": 2.0, "dispersion": 0.1},
}
ON_FEATURES = [
    name
    for name in list_scores()
    if not get_score(name).trained_by and not {"layer maps", "extra class"} & set(get_score(name).needs)
]

Trained = Callable[[str], guard.Guard]


@pytest.fixture(scope="module")
def with_head(four: Arrays, tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """with_head(name): plain's default guard on that head, options other than the defaults; made once, in a folder."""
    made: dict[str, guard.Guard] = {}

    def train(name: str) -> guard.Guard:
        if name not in made:
            out = tmp_path_factory.mktemp("heads") / name
            # after 4 epochs the hypersphere head is right for 0.69 to 0.96, by seed and processor; after 8, for 0.96
            options = {**tiny, "backbone": "wrn10_2", "lr": 0.02, "epochs": 8}
            made[name] = guard.train(four, head=name, head_options=OTHER.get(name), out=out, **options)
        return made[name]

    return train


@pytest.mark.parametrize("name", HEADS)
class TestEveryHead:
    def test_it_learns_and_says_what_it_is(self, name: str, with_head: Trained) -> None:
        m = with_head(name).manifest
        assert (m.head, m.score_label) == (name, head_class(name).score or "multilayer_mahalanobis")
        assert m.head_options == {**head_class(name).Options().model_dump(), **OTHER.get(name, {})}
        assert m.metrics["test_accuracy"] > 0.6  # chance is 0.25
        assert len(m.class_names) == 4

    def test_its_folder_loads_and_answers_alike(
        self, name: str, with_head: Trained, four: Arrays, tmp_path: Path
    ) -> None:
        g = with_head(name)
        again = guard.load(g.save_pretrained(tmp_path / "run"), device="cpu")
        ours, theirs = g.predict(four[0]), again.predict(four[0])
        np.testing.assert_array_equal(ours.ood_score, theirs.ood_score)
        np.testing.assert_array_equal(ours.probabilities, theirs.probabilities)

    def test_it_exports_without_a_flip(self, name: str, with_head: Trained, four: Arrays, tmp_path: Path) -> None:
        g = with_head(name)
        path = guard.export(g, tmp_path / "guard.onnx")
        report = guard.verify(path, against=g, data=four)
        assert (report.flag_flips, report.label_changes) == (0, 0)
        assert guard.load(path).manifest.head_options == g.manifest.head_options

    def test_the_label_and_probabilities_are_over_the_classes(
        self, name: str, with_head: Trained, four: Arrays
    ) -> None:
        verdicts = with_head(name).predict(four[0])
        assert verdicts.probabilities.shape == (400, 4)
        np.testing.assert_allclose(verdicts.probabilities.sum(-1), 1, rtol=1e-5)
        assert (verdicts.label == verdicts.probabilities.argmax(-1)).all()

    def test_the_default_score_catches_what_lies_far_away(
        self, name: str, with_head: Trained, four: Arrays, noise: np.ndarray
    ) -> None:
        g = with_head(name)
        inside, outside = g.predict(four[0][g.splits["test"]]).ood_score, g.predict(noise).ood_score
        assert metrics.auroc(inside, outside) > 0.9

    def test_another_score_keeps_its_options(self, name: str, with_head: Trained, four: Arrays) -> None:
        """The logits of some heads depend on them."""
        g = with_head(name)
        fitted = guard.fit(g, four, score="energy", device="cpu")
        assert fitted.manifest.head_options == g.manifest.head_options
        np.testing.assert_array_equal(fitted.predict(four[0]).probabilities, g.predict(four[0]).probabilities)

    @pytest.mark.parametrize("classes", [2, 5])
    def test_its_loss_falls_on_separable_features(self, name: str, classes: int) -> None:
        """Two classes as well as many, in every option that its loss depends on."""
        torch.manual_seed(0)
        labels = torch.arange(60) % classes
        pooled = 3 * torch.eye(8)[labels] + 0.3 * torch.rand(60, 8)
        for options in ({}, OTHER.get(name, {})):
            head = create_head(name, 8, classes, **options)
            optimizer = torch.optim.SGD(head.parameters(), lr=0.02, momentum=0.9)
            losses = []
            for _ in range(100):
                features = head.embed(pooled)
                loss = torch.stack(list(head.loss(features, head(features), labels).values())).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(float(loss.detach()))
            assert np.isfinite(losses).all()
            assert losses[-1] < losses[0]
            assert (head(head.embed(pooled)).argmax(-1) == labels).all()

    def test_every_score_on_features_takes_it(self, name: str) -> None:
        torch.manual_seed(0)
        head = create_head(name, 20, 4, **OTHER.get(name, {})).eval()
        with torch.no_grad():
            features = head.embed(torch.rand(120, 20) + torch.eye(20)[torch.arange(120) % 4])
            logits, last = head(features), head.last_layer()
            for score in ON_FEATURES:
                fitted = create_score(score).fit(features, logits, torch.arange(120) % 4, last, features)
                assert fitted(features, logits, features).isfinite().all(), score

    def test_the_layer_that_scores_are_told_of_gives_its_logits(self, name: str) -> None:
        torch.manual_seed(0)
        head = create_head(name, 20, 4).eval()
        with torch.no_grad():
            features = head.embed(torch.randn(30, 20))
            last = head.last_layer()
            if last.standardised is not None:
                z = last.standardised * torch.nn.functional.layer_norm(features, (20,))
                logits = z @ last.weight.T + last.bias
            elif last.scale is None:
                logits = features @ last.weight.T + (0.0 if last.bias is None else last.bias)
            else:
                logits = last.scale * torch.nn.functional.cosine_similarity(features[:, None], last.weight[None], -1)
            torch.testing.assert_close(head(features), logits, rtol=1e-5, atol=1e-5)

    def test_an_unknown_option_and_a_near_miss_are_named(self, name: str, four: Arrays) -> None:
        with pytest.raises(ConfigError, match=f"head '{name}' has no option 'colour'.*Its options and defaults: "):
            guard.train(four, head=name, head_options={"colour": "red"}, device="cpu")
        with pytest.raises(UnknownNameError, match=f"did you mean .*'{name}'"):
            create_head(name + "x", 5, 3)

    def test_it_says_where_it_comes_from(self, name: str) -> None:
        assert (head_class(name).__doc__ or "").strip()
        assert head_class(name).source or name == "linear"

    def test_its_options_explain_themselves_and_are_no_arguments(self, name: str) -> None:
        fields = head_class(name).Options.model_fields
        assert not [option for option, field in fields.items() if not (field.description or "").endswith(".")]
        assert not set(fields) & set(inspect.signature(create_head).parameters)


SAME_STAGES = {"mlm", "dmr", "dmr_kirby"}  # as dmr_mlm: the outliers differ, not what is trained on them


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where what does not depend on the head is kept for all heads."""
    return tmp_path_factory.mktemp("models")


def sharing(recipe: dict[str, Any], models: Path) -> dict[str, Any]:
    """The recipe with its diffusion model (and the encoder beside it) or pair in a folder of `models`."""
    places = {"diffusion": "of labels" if recipe.get("method") == "label_mixup" else "of tokens", "pair": "pair"}
    given = {key: recipe[key] for key in places if isinstance(recipe.get(key), dict)}
    return recipe | {key: {**value, "folder": str(models / places[key])} for key, value in given.items()}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("method", sorted(set(list_methods()) - SAME_STAGES))
def test_every_method_trains_every_head(
    method: str, head: str, four: Arrays, tiny: dict[str, Any], models: Path
) -> None:
    outliers = "patch_shuffle" if get_method(method).wants_outliers == "required" else None
    recipe = sharing(RECIPES.get(method, {}), models)
    own = {key: value for key, value in recipe.items() if key not in ("method", "score", "head_options")}
    options = {**tiny, "outliers": outliers, **own, "backbone": "wrn10_2", "epochs": 1, "lr": 0.02, "head": head}
    options |= {key: 1 for key in ("tune_epochs", "finetune_epochs") if key in own}
    data = (four[0][:160], four[1][:160])
    heads = get_method(method).heads
    if heads and head not in heads:
        with pytest.raises(ConfigError, match=heads[0]):
            guard.train(data, method=method, **options)
        return
    g = guard.train(data, method=method, **options)
    assert (g.manifest.method, g.manifest.head) == (method, head)
    assert np.isfinite(g.predict(four[0][:20]).ood_score).all()


def test_every_head_of_the_package_is_listed() -> None:
    assert sorted(HEADS) == HEADS
    assert {"linear", "cosine", "adacos", "arcface", "cosface", "sphereface", "c_plus_1", "hypersphere"} <= set(HEADS)
    assert set(OTHER) == {name for name in HEADS if head_class(name).Options.model_fields}


# --------------------------------------------------------------------------------------------- options on their way


@pytest.mark.parametrize(
    ("head", "options", "sentence"),
    [
        ("arcface", {"margn": 0.3}, r"head 'arcface' has no option 'margn'; did you mean 'margin'\?"),
        ("arcface", {"margin": 2}, "head 'arcface' option margin: .*less than .*, got 2"),
        ("arcface", {"fallback": "soft"}, "head 'arcface' option fallback: .*'hard' or 'easy', got 'soft'"),
        ("cosine", {"margin": 0.3}, "head 'cosine' has no option 'margin'.*: none"),
        (None, {"scale": 3}, "head 'linear' has no option 'scale'"),
        ("arcface", ["margin"], r"head_options takes a mapping such as \{'margin': 0.3\}, got \['margin'\]"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_loaded(head: Any, options: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        guard.train("no/such/folder", head=head, head_options=options)


def test_the_score_of_the_extra_class_brings_its_head(four: Arrays) -> None:
    with pytest.raises(ConfigError, match="score 'reject_class' reads the extra class of head='c_plus_1'"):
        guard.train("no/such/folder", head="linear", score="reject_class")


def test_a_score_of_the_extra_class_fits_that_head_only(with_head: Trained, four: Arrays) -> None:
    assert guard.fit(with_head("c_plus_1"), four, score="reject_class", device="cpu").manifest.head == "c_plus_1"
    with pytest.raises(ModelError, match=r"needs an extra class for outliers; .*head='c_plus_1'"):
        guard.fit(with_head("linear"), four, score="reject_class", device="cpu")


def test_a_run_goes_on_with_the_same_head_options_only(
    with_head: Trained, four: Arrays, tiny: dict[str, Any], tmp_path: Path
) -> None:
    options = {**tiny, "backbone": "wrn10_2", "epochs": 1, "head": "cosface", "out": tmp_path}
    guard.train(four, head_options={"margin": 0.2}, **options)
    with pytest.raises(ConfigError, match=r"other arguments .*head_options: .*0\.2.* then, .*0\.35.* now"):
        guard.train(four, resume=True, **options)
    guard.train(four, resume=True, head_options={"margin": 0.2}, **options)


def test_a_checkpoint_and_a_folder_from_before_head_options_are_read(
    four: Arrays, tiny: dict[str, Any], tmp_path: Path
) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    options = {**tiny, "epochs": 1, "out": tmp_path, "score": "energy"}
    first = guard.train(four, **options)
    path = tmp_path / "checkpoint.safetensors"
    with safe_open(path, "pt") as file:
        header, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    config = json.loads(header["config"])
    assert config.pop("head_options") == {}
    assert "head_options" not in json.loads((tmp_path / "guard.json").read_text())  # as it was before
    save_file(tensors, path, {**header, "config": json.dumps(config)})
    again = guard.train(four, resume=True, **options)
    np.testing.assert_array_equal(again.predict(four[0]).ood_score, first.predict(four[0]).ood_score)


def test_a_network_starts_from_one_with_the_same_head_only(with_head: Trained, four: Arrays, tmp_path: Path) -> None:
    trained = with_head("cosface").save_pretrained(tmp_path / "run")
    options = {"backbone": "wrn10_2", "epochs": 1, "device": "cpu", "init": trained}
    with pytest.raises(ConfigError, match="has head='cosface', and this training head='arcface'"):
        guard.train(four, head="arcface", **options)
    guard.train(four, head="cosface", **options)


def test_outliers_never_get_a_margin(four: Arrays, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the head's loss sees are the labelled images; the outliers' logits are s cos."""
    from guard.heads import CosFaceHead
    from train.losses.uniform_target import UniformTargetLoss

    seen: list[int] = []
    loss, uniform = CosFaceHead.loss, UniformTargetLoss.loss
    heads: list[CosFaceHead] = []

    def spy_loss(self: CosFaceHead, features: Any, logits: Any, labels: Any) -> Any:
        heads[:] = [self]
        seen.append(len(features))
        assert len(features) == len(logits) == len(labels)
        return loss(self, features, logits, labels)

    def spy_uniform(self: UniformTargetLoss, batch: Any) -> Any:
        assert torch.equal(batch.outliers.logits, heads[0](batch.outliers.features))
        assert batch.outliers.logits.abs().max() <= 30.0001
        seen.append(-len(batch.outliers.features))
        return uniform(self, batch)

    monkeypatch.setattr(CosFaceHead, "loss", spy_loss)
    monkeypatch.setattr(UniformTargetLoss, "loss", spy_uniform)
    monkeypatch.setattr("train.engine.forward.mixed_precision", lambda device: __import__("contextlib").nullcontext)
    options = {**tiny, "backbone": "wrn10_2", "epochs": 1}
    guard.train(four, method="oe", head="cosface", outliers="patch_shuffle", ratio=0.5, **options)
    assert set(seen) == {32, -16}
