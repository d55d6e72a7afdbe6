"""A paper's numbers beside a benchmark's own."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from guard.errors import ConfigError
from guard.requests import BenchmarkRequest
from train.benchmark.file import read
from train.benchmark.published import beside
from train.benchmark.report import write_report
from train.benchmark.results import Results

TABLE: dict[str, Any] = {
    "table": "Table <1>",
    "source": "Nobody & Co, 2026",
    "sets": ["a", "b", "average"],
    "backbone": "wrn10_2",
    "rows": [
        {"row": "theirs", "method": "plain", "score": "energy", "accuracy": 90.5, "auroc": [80.0, 70.0, 75.0]},
        {"row": "cited", "fpr_at_95_id_tpr": [1.1, None, 2.25]},
        {"row": "another", "method": "plain", "score": "energy", "backbone": "resnet18", "auroc": [50.0, 60.0, 55.0]},
    ],
}


def row(seed: int, a: float, b: float) -> dict[str, Any]:
    metrics = ("auroc", "aupr_in", "aupr_out", "fpr_at_95_id_tpr", "fpr_at_95_ood_tpr", "flagged")
    numbers = {"accuracy": 0.9, "false_alarm_rate": 0.05, "train_seconds": 1.0, "images_per_second": 1.0}
    numbers |= {"bare_images_per_second": 1.0, "speed_relative": 1.0, "speed_low": 1.0, "speed_high": 1.0}
    named = {"backbone": "wrn10_2", "method": "plain", "head": "linear", "seed": seed, "score": "energy"}
    ood = {name: dict.fromkeys(metrics, value) for name, value in (("a", a), ("b", b))}
    return {**named, "settings": "", **numbers, "accuracies": {"s": 0.5}, "ood": ood}


def results(folder: Path) -> Results:
    return Results(folder, [row(0, 0.81, 0.70), row(1, 0.83, 0.72)], ("a",), ("b",))


def asked(small: dict[str, Any], **table: Any) -> Any:
    small |= {"ood": {"near": {"a": "letters"}, "far": {"b": "letters"}}, "published": [{**TABLE, **table}]}
    return read(BenchmarkRequest(file=small))[0]


def test_each_number_has_ours_beside_it(small: dict[str, Any], tmp_path: Path) -> None:
    found = beside(asked(small), results(tmp_path))
    ours = {(one.row.row, one.metric, one.column): one.difference for one in found}
    assert ours[("theirs", "accuracy", "")] == pytest.approx(-0.5)
    assert ours[("theirs", "auroc", "a")] == pytest.approx(2.0)  # (81 + 83) / 2 - 80
    assert ours[("theirs", "auroc", "average")] == pytest.approx(1.5)  # (82 + 71) / 2 - 75
    assert ours[("cited", "fpr_at_95_id_tpr", "a")] is None
    assert ("cited", "fpr_at_95_id_tpr", "b") not in ours
    assert ours[("another", "auroc", "a")] is None  # another backbone


def test_accuracy_on_shifted_images_is_compared(small: dict[str, Any], tmp_path: Path) -> None:
    rows = [{"row": "shifted", "method": "plain", "score": "energy", "accuracies": {"s": 47.5}}]
    (one,) = beside(asked(small, rows=rows, sets=[]), results(tmp_path))
    assert (one.column, one.difference) == ("s", pytest.approx(2.5))


def test_the_report_prints_them(small: dict[str, Any], tmp_path: Path) -> None:
    write_report(asked(small), results(tmp_path))
    text = (tmp_path / "results.md").read_text()
    assert "### Table <1>" in text
    assert "| AUROC | a | b | average |" in text
    assert "| theirs | 80 / 82.0 ± 1.4 (+2.0) | 70 / 71.0 ± 1.4 (+1.0) | 75 / 76.5 ± 1.4 (+1.5) |" in text
    assert "| cited | 1.1 / - | 2.25 / - |" in text
    page = (tmp_path / "report.html").read_text()
    assert "Table &lt;1&gt;" in page
    assert "80 / <b>82.0</b><i> ± 1.4 (+2.0)</i>" in page
    lines = list(csv.DictReader((tmp_path / "published.csv").open()))
    assert (lines[1]["row"], lines[1]["set"], lines[1]["published"], lines[1]["ours"]) == ("theirs", "a", "80", "82")
    assert lines[1]["difference"] == "2"
    assert lines[-1]["ours"] == ""


def test_nothing_is_printed_where_nothing_was_published(small: dict[str, Any], tmp_path: Path) -> None:
    small["ood"] = {"near": {"a": "letters"}, "far": {"b": "letters"}}
    write_report(read(BenchmarkRequest(file=small))[0], results(tmp_path))
    assert "published" not in (tmp_path / "results.md").read_text()
    assert not (tmp_path / "published.csv").exists()


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"row": "x", "auroc": [1.0]}], "row 'x' of Table <1> has 1 numbers of auroc for 3 sets"),
        ([{"row": "x", "method": "plain"}], "names method='plain' and score=None; give both, or neither"),
        ([{"row": "x", "auroc": [1.0, 2.0, 101.0]}], "101"),
        ([{"row": "x", "aurok": []}], "aurok"),
    ],
)
def test_a_table_that_cannot_be_is_refused(rows: list[Any], sentence: str, small: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=sentence):
        asked(small, rows=rows)
