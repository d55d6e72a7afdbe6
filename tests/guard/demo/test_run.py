"""The demo itself, as `make demo` runs it, and its manners towards folders."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from guard.demo import run as demo
from guard.errors import ConfigError


@pytest.fixture(scope="module")
def shown() -> io.StringIO:
    return io.StringIO()


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, shown: io.StringIO) -> demo.DemoResult:
    """One run with every default."""
    console = Console(file=shown, width=120, markup=False, highlight=False)
    return demo.run(tmp_path_factory.mktemp("runs") / "demo", console=console)


def test_false_alarms_lie_in_their_stated_interval(result: demo.DemoResult) -> None:
    inside = result.evaluation.id
    assert inside.as_expected, (inside.false_alarm_rate, inside.expected)
    assert inside.accuracy > 0.95


def test_far_ood_is_detected_and_near_ood_reported(result: demo.DemoResult) -> None:
    far, near = result.evaluation.mean(near=False), result.evaluation.mean(near=True)
    assert far is not None
    assert near is not None
    assert far["auroc"] >= 0.95
    assert min(r.metrics.auroc for r in result.evaluation.ood if not r.near) >= 0.9
    assert near["auroc"] > 0.8


def test_the_service_answered_every_image_like_the_exported_file(result: demo.DemoResult) -> None:
    import guard

    g = guard.load(result.model, device="cpu")
    asked = demo._questions(_with_test_rows(g, result))
    assert len(asked) == len(result.answers) == 14
    for (source, image), answered in zip(asked, result.answers, strict=True):
        (verdict,) = g.predict([image.squeeze()])
        assert answered.source == source
        assert answered.verdict.model == g.manifest.identity
        assert answered.verdict.class_name == verdict.class_name
        assert answered.verdict.is_ood == verdict.is_ood
        assert answered.verdict.ood_score == pytest.approx(verdict.ood_score, abs=1e-4)


def test_digits_are_named_and_far_ood_is_flagged_over_http(result: demo.DemoResult) -> None:
    digits = [a for a in result.answers if a.source.startswith("digit ")]
    assert len(digits) == 4
    assert sum(a.source == f"digit {a.verdict.class_name}" for a in digits) >= 3
    far = [a for a in result.answers if not a.source.startswith("digit")]
    assert sum(a.verdict.is_ood for a in far) >= 6  # of 8


def test_files_and_headings(result: demo.DemoResult, shown: io.StringIO) -> None:
    text = shown.getvalue()
    for heading in ("1/5 train", "2/5 export", "3/5 verify", "4/5 evaluate", "5/5 serve", "done in"):
        assert heading in text
    assert f"report: {result.report}" in text
    assert "\x1b" not in text
    assert "flag flips        0" in text
    assert result.report.read_text().lstrip().lower().startswith("<!doctype html")
    assert result.report.with_suffix(".json").exists()


def test_an_earlier_demo_is_replaced_and_anything_else_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    demo._fresh_folder(out)
    (out / "guard.onnx").write_bytes(b"of an earlier demo")
    demo._fresh_folder(out)
    assert [p.name for p in out.iterdir()] == [demo.MARKER]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="is not an earlier demo; choose another folder with --out"):
        demo._fresh_folder(mine)
    with pytest.raises(ConfigError, match="is not an earlier demo"):
        demo._fresh_folder(mine / "thesis.txt")
    assert (mine / "thesis.txt").read_text() == "years of work"


def _with_test_rows(g: object, result: demo.DemoResult) -> object:
    """The exported guard with the held-out rows that `guard.train` would have remembered."""
    from guard.data import load, split

    card = result.evaluation.manifest.data[0]
    rows = split(
        load(demo.INSIDE).labels,
        seed=result.evaluation.manifest.seed,
        calibration=card.splits["calibration"],
        test=card.splits["test"],
    )
    g.splits = rows  # type: ignore[attr-defined]
    return g
