"""What `guard.list_scores` says of every score, and of a model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from torch import nn

import guard
from guard.errors import ConfigError, GuardError, ModelError
from guard.scores import get_score
from guard.scores import list_scores as names
from guard.scores.table import ScoreInfo, ScoreList, score_table, why_not
from tests.conftest import Arrays
from tests.train.classifiers.hf_models import made
from tests.train.classifiers.onnx_nets import FILES, build
from tests.train.models import Unfound, sequential


def rows(model: Any) -> dict[str, ScoreInfo]:
    return {row.name: row for row in guard.list_scores(model=model).rows}


def test_it_is_a_list_of_names() -> None:
    listed = guard.list_scores()
    assert listed == names()
    assert isinstance(listed, list)
    assert guard.list_scores("m*") == names("m*")
    assert "energy" in listed
    assert [row.name for row in listed.rows] == listed


def test_a_row_says_what_the_class_says() -> None:
    for row in guard.list_scores().rows:
        score = get_score(row.name)
        assert (row.equation, row.source, row.needs) == (score.equation, score.source, score.needs)
        assert row.exports is not bool(score.no_export)
        assert row.applies is None


def test_it_prints_a_table() -> None:
    lines = str(guard.list_scores("[eo][nd][ei][rn]*")).splitlines()  # energy, energy_logistic, odin
    assert lines[0].split() == ["score", "ood_score", "needs", "fit", "exports"]
    assert [line.split()[0] for line in lines[1:]] == ["energy", "energy_logistic", "odin"]
    start = lines[0].index("needs")
    assert lines[1][start:].split("  ")[0] == "logits"
    assert "trained by vos" in lines[2]
    assert "no: it needs the gradient" in lines[3]
    assert lines[3].endswith("; use msp with temperature=1000")
    assert str(ScoreList(())) == "no scores"
    assert repr(guard.list_scores("msp")) == str(guard.list_scores("msp"))


def test_importing_guard_does_not_import_it() -> None:
    code = "import guard, sys; assert 'guard.scores.table' not in sys.modules and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True)


# ------------------------------------------------------------------------------------------------ what a model can have


def test_a_torch_model_with_a_linear_layer_has_all_that_need_no_training() -> None:
    found = rows(sequential())
    assert {name for name, row in found.items() if not row.applies} == {
        *(name for name in names() if get_score(name).trained_by and name != "rejection"),
        "reject_class",
    }
    assert found["energy_logistic"].why_not == "is learned in training; use guard.train(..., method='vos')"
    assert "applies" in str(guard.list_scores(model=sequential())).splitlines()[0].split()


def test_two_functions_have_neither_weights_nor_layers() -> None:
    body = sequential()[:-1].eval()
    last = nn.Linear(32, 4)
    found = rows((lambda x: body(x), lambda h: last(h)))
    assert {name for name in ("vim", "react", "dice", "gram", "knn", "energy", "odin") if not found[name].applies} == {
        "vim",
        "react",
        "dice",
        "gram",
    }
    assert found["vim"].why_not.startswith("needs the weights of a last linear layer; use 'knn'")


def test_guards_folders_names_and_files_are_opened_without_data(
    trained: Callable[[str], Any], four: Arrays, tmp_path: Path
) -> None:
    g = trained("plain")
    g.save_pretrained(tmp_path / "run")
    for model in (g, tmp_path / "run", "resnet18"):
        assert rows(model)["vim"].applies
    for name in ("gemm", "open size"):
        onnx.save(build(FILES[name]), tmp_path / "net.onnx")
        found = rows(tmp_path / "net.onnx")
        assert found["vim"].applies
        assert "gradient" in found["odin"].why_not


def test_a_hugging_face_folder_needs_its_config_only(tmp_path: Path) -> None:
    for name in ("vit", "resnet"):  # the latter does not say its size
        made(name).config.save_pretrained(tmp_path)
        assert rows(tmp_path)["vim"].applies
        assert rows(made(name))["gram"].applies


def test_guard_fit_gives_the_same_reason_before_it_reads_anything(
    four: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.runs.fit.fit_score", lambda *_, **__: pytest.fail("read the data"))
    body = sequential()[:-1].eval()
    pair = (lambda x: body(x), lambda h: h[:, :4])
    options: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "device": "cpu"}
    refused = [row for row in guard.list_scores(model=pair).rows if not row.applies]
    assert len(refused) > 5
    for row in refused:
        with pytest.raises(ConfigError if row.trained_by else ModelError) as caught:
            guard.fit(pair, four, score=row.name, **options)
        assert str(caught.value) == f"score {row.name!r} {row.why_not}"


def test_a_model_without_linear_layer_keeps_the_scores_of_its_logits() -> None:
    found = rows(Unfound())
    assert found["energy"].applies
    assert found["msp"].applies
    assert "no linear layer on the way to its logits; name the module" in found["knn"].why_not
    assert "no linear layer" in found["vim"].why_not


@pytest.mark.parametrize("model", [3, "no_such_net", nn.Identity()])
def test_what_is_no_model(model: Any) -> None:
    with pytest.raises(GuardError):
        guard.list_scores(model=model)


def test_any_input_size_and_channels_are_found() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5))
    assert rows(flat)["vim"].applies
    grey = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    assert rows(grey)["vim"].applies


def test_every_need_has_words(monkeypatch: pytest.MonkeyPatch, trained: Callable[[str], Any]) -> None:
    """A classifier that shows nothing is told of each need in words."""
    classifier = trained("plain").module.classifier
    monkeypatch.setattr(type(classifier), "shows", lambda _: frozenset())
    for name in names():
        if not get_score(name).trained_by:
            assert why_not(get_score(name), classifier).startswith("needs "), name
    assert len(score_table(["msp"], classifier)) == 1
    assert np.all([row.applies is False for row in score_table(names(), classifier).rows])


def test_a_score_that_is_known_to_fail_says_where() -> None:
    row = next(row for row in guard.list_scores("scale").rows)
    assert "transformers" in row.caution
    shown = row.model_copy(update={"applies": True})
    assert any(cell.startswith("yes, but known to fail on transformers") for cell in shown.cells())
