"""Text -> values, and values -> JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guard.cli import arguments, output
from guard.errors import ConfigError, MissingDataError
from tests.serving.conftest import colour_manifest


def test_values_are_json_or_text() -> None:
    texts = ("0.1", "3", "true", "null", "[1, 2]", "paper", "1e-3", "a=b")
    assert [arguments.value(t) for t in texts] == [0.1, 3, True, None, [1, 2], "paper", 1e-3, "a=b"]


def test_numbers_are_separated_by_commas() -> None:
    assert arguments.numbers("0.5, 1,2") == (0.5, 1.0, 2.0)
    assert arguments.numbers(None) is None
    with pytest.raises(ConfigError, match=r"like 0\.5,0\.5,0\.5, got 'half'"):
        arguments.numbers("half")


def test_plain_paths_are_named_after_their_file_or_folder(tmp_path: Path) -> None:
    (tmp_path / "textures" / "class").mkdir(parents=True)
    (tmp_path / "mnist.parquet").write_bytes(b"")
    sets = arguments.named_sets(
        [f"{tmp_path}/textures", f"{tmp_path}/mnist.parquet", "digits:8-9", f"x={tmp_path}/a=b"]
    )
    assert sets == {
        "textures": f"{tmp_path}/textures",
        "mnist": f"{tmp_path}/mnist.parquet",
        "digits:8-9": "digits:8-9",
        "x": f"{tmp_path}/a=b",
    }
    with pytest.raises(MissingDataError, match="no such file or folder"):
        arguments.named_sets([f"{tmp_path}/absent"])


def test_plain_makes_json_of_everything() -> None:
    value = {
        "a": np.float32(0.5),
        "b": np.arange(2),
        "c": Path("x"),
        "d": (float("inf"), None),
        1: colour_manifest().head,
    }
    assert json.loads(json.dumps(output.plain(value))) == {
        "a": 0.5,
        "b": [0, 1],
        "c": "x",
        "d": [None, None],
        "1": "linear",
    }


@pytest.mark.parametrize(
    ("pairs", "options"),
    [
        (["diffusion.folder=runs/d", "diffusion.epochs=5"], {"diffusion": {"folder": "runs/d", "epochs": 5}}),
        (["a.b.c-d=1", "a.e=x"], {"a": {"b": {"c_d": 1}, "e": "x"}}),
        (["pair=style", "pair.epochs=5"], {"pair": {"model": "style", "epochs": 5}}),
        (["pair.epochs=5", "pair=style"], {"pair": {"epochs": 5, "model": "style"}}),
        (['pair={"epochs": 5}', "pair.lr=0.1"], {"pair": {"epochs": 5, "lr": 0.1}}),
        (["folder=a.b=c"], {"folder": "a.b=c"}),
        (["times=[0.5, 1.0]"], {"times": [0.5, 1.0]}),
    ],
)
def test_a_dotted_name_goes_into_a_mapping(pairs: list[str], options: dict[str, Any]) -> None:
    assert arguments.settings(pairs) == options


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        (["pair.epochs=1", "pair.epochs=2"], "--set pair.epochs was given twice"),
        (["pair=style", "pair=mine"], "--set pair was given twice"),
        (["pair.=1"], "--set takes name=value, like --set weight=0.1, got 'pair.=1'"),
        ([".epochs=1"], "--set takes name=value"),
    ],
)
def test_a_path_that_cannot_be_is_refused(pairs: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        arguments.settings(pairs)


def test_options_of_a_score_may_have_the_names_of_arguments() -> None:
    assert arguments.settings(["alpha=2", "seed=1"], flag="--score-set", beside={"seed": "--seed"}) == {
        "alpha": 2,
        "seed": 1,
    }
    with pytest.raises(ConfigError, match="use --seed"):
        arguments.settings(["seed=1"], beside={"seed": "--seed"})
