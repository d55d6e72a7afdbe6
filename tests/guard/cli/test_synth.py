"""``guard synth`` and ``guard synthesisers``: what they forward, what they print, and what a mistake meets."""

from __future__ import annotations

import functools
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

import guard
from guard import api
from tests.guard.cli.conftest import Command
from train.outliers.base import list_synthesisers
from train.outliers.store.store import open_store


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `guard.synth` was called with, instead of being called."""
    recorded: dict[str, Any] = {}
    original = api.synth

    @functools.wraps(original)
    def fake(*positional: Any, **named: Any) -> Any:
        recorded.update(inspect.signature(original).bind(*positional, **named).arguments)
        raise guard.errors.ConfigError("asked")

    monkeypatch.setattr(api, "synth", fake)
    return recorded


def test_what_is_not_typed_has_the_default_of_the_function(run: Command, asked: dict[str, Any]) -> None:
    run("synth", "digits", "--method", "strokes", "-o", "stores/a")
    defaults = {n: p.default for n, p in inspect.signature(api.synth).parameters.items()}
    optional = {k: v for k, v in asked.items() if defaults[k] is not inspect.Parameter.empty}
    assert len(optional) > 8
    assert optional == {k: defaults[k] for k in optional}


def test_what_was_typed_is_forwarded(run: Command, asked: dict[str, Any]) -> None:
    run(
        *("synth", "cats/", "--method", "pixel_average", "--count", 500, "--out", "stores/a", "--set", "k=5"),
        *("--match", "spectrum", "--match", "coding", "--classifier", "runs/a", "--seed", 3, "--batch-size", 64),
        *("--calibration", "0.2", "--test", 50, "--image-size", 32, "--in-chans", 1, "--no-gallery", "--device", "cpu"),
        *("--resize", "pad", "--fill", "1,2,3"),
    )
    assert asked == {
        "data": "cats/",
        "method": "pixel_average",
        "count": 500,
        "out": Path("stores/a"),
        "options": {"k": 5},
        "match": ("spectrum", "coding"),
        "classifier": Path("runs/a"),
        "seed": 3,
        "batch_size": 64,
        "calibration": 0.2,
        "test": 50,
        "image_size": 32,
        "resize": "pad",
        "fill": (1, 2, 3),
        "crop_pct": None,
        "interpolation": None,
        "background": None,
        "in_chans": 1,
        "gallery": False,
        "device": "cpu",
        "workers": None,
        "threads": None,
    }


def test_a_store_is_made_described_and_then_only_opened(run: Command, tmp_path: Path) -> None:
    words = ("synth", "digits:0-3", "--method", "pixel_average", "--set", "k=3", "--count", 40, "-o", tmp_path / "s")
    first = run(*words)
    assert first.code == 0, first.err
    audit = open_store(tmp_path / "s").card.audit
    assert audit is not None
    shown = " ".join(first.out.split())
    assert "40 by pixel_average (k 3)" in shown
    assert f"contrast AUROC {audit.separation['contrast']:.3f} (above 0.7)" in shown
    assert "warning: one low-level statistic is enough" in shown
    assert f"--outliers {tmp_path / 's'}" in shown
    assert (tmp_path / "s" / "gallery.html").exists()
    times = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "s").glob("*.parquet")}
    again = json.loads(run(*words, "--json").out)
    assert again["count"] == 40
    assert again["options"] == {"k": 3}
    assert again["audit"]["separation"] == pytest.approx(audit.separation)
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "s").glob("*.parquet")} == times
    other = run(*words[:5], "k=4", *words[6:])
    assert other.code == 2
    assert other.err.strip().endswith("(options.k: 3 then, 4 now); ask for the same, or choose another folder")


def test_mistakes_meet_a_sentence(run: Command, tmp_path: Path) -> None:
    store = ("-o", tmp_path / "s")
    for words, sentence in (
        (("--method", "pixel_averag"), "unknown synthesiser 'pixel_averag'; did you mean 'pixel_average'?"),
        (("--method", "strokes", "--match", "colr"), "unknown match 'colr'; did you mean 'colour'"),
        (("--method", "pixel_average", "--set", "kk=3"), "synthesiser 'pixel_average' has no option 'kk'"),
        (("--method", "strokes", "--seed", -1), "seed must be"),
        (("--method", "strokes", "--count", 0), "count must be a number of images"),
        (("--method", "strokes", "--set", "seed=1"), "use --seed"),
    ):
        result = run("synth", "digits:0-3", *words, *store)
        assert result.code == 2, words
        assert sentence in result.err
        assert result.err.count("\n") == 1


def test_synthesisers_are_listed_and_shown(run: Command) -> None:
    listed = json.loads(run("synthesisers", "--json").out)
    assert [s["name"] for s in listed] == list_synthesisers()
    assert all(s["summary"] for s in listed)
    shown = run("synthesisers", "pixel_average").out
    assert "synthesiser pixel_average" in shown
    assert "--set" in shown
    assert "10" in shown
    assert "did you mean 'strokes'" in run("synthesisers", "stroke").err
