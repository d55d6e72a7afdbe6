from __future__ import annotations

import csv
import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from guard.cli import main
from guard.errors import ConfigError, DataError, MissingDataError
from guard.manifest import Manifest
from guard.monitoring.monitor import DriftMonitor
from guard.monitoring.page import headline, render
from guard.monitoring.table import drift, read_table
from tests.serving.conftest import calibration_scores, colour_graph, colour_manifest

REFERENCE = calibration_scores()


def columns(n: int = 400, strange: int = 200) -> dict[str, list[Any]]:
    """Scores as the calibration's, of which the last `strange` are beyond it."""
    score = np.random.default_rng(0).choice(REFERENCE, n) + np.float32(0.001)
    score[n - strange :] = -1.0
    p = (1 + len(REFERENCE) - np.searchsorted(REFERENCE, score)) / (len(REFERENCE) + 1)
    names = np.random.default_rng(1).choice(["red", "<i>blue"], n)
    return {
        "time": [f"2026-01-01T00:{i // 60:02}:{i % 60:02}" for i in range(n)],
        "ood_score": score.astype(float).tolist(),
        "p_value": p.tolist(),
        "is_ood": (score > -4).tolist(),
        "class_name": names.tolist(),
        "more": ["x"] * n,
    }


def written(path: Path, data: dict[str, list[Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.table(data), path)
        return path
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(data)
        rows.writerows(zip(*data.values(), strict=True))
    return path


@pytest.fixture
def manifest() -> Manifest:
    return colour_manifest()


@pytest.mark.parametrize("name", ["v.parquet", "v.csv"])
def test_a_table_says_what_the_monitor_says_of_its_columns(name: str, tmp_path: Path, manifest: Manifest) -> None:
    data = columns()
    found = drift(read_table(written(tmp_path / name, data)), manifest=manifest)
    own = DriftMonitor.of(manifest).update(np.array(data["ood_score"]), flagged=np.array(data["is_ood"]))
    assert (found.alarm_at, found.log10_capital, found.flagged) == (own.alarm_at, own.log10_capital, own.flagged)
    assert 200 < found.alarm_at < 230
    assert {c.class_name: c.images for c in found.classes} == {
        name: data["class_name"].count(name) for name in ("red", "<i>blue")
    }


def test_rows_are_taken_in_the_order_of_time(tmp_path: Path, manifest: Manifest) -> None:
    data = columns()
    order = np.random.default_rng(2).permutation(400)
    mixed = {name: [values[i] for i in order] for name, values in data.items()}
    straight = drift(read_table(written(tmp_path / "a.csv", data)), manifest=manifest)
    assert drift(read_table(written(tmp_path / "b.parquet", mixed)), manifest=manifest).alarm_at == straight.alarm_at


@pytest.mark.parametrize(
    ("values", "name"),
    [
        (["1.7e9", "1700000060 ", "1_700_000_120"], "v.csv"),
        (["2023-11-14", "2023-11-14 22:13:20", " 2023-11-15T00:00:00Z"], "v.csv"),
        ([date(2023, 11, 14), date(2023, 11, 15), date(2023, 11, 16)], "v.parquet"),
    ],
)
def test_times_are_numbers_dates_or_iso(values: list[Any], name: str, tmp_path: Path) -> None:
    backwards = {"ood_score": [2.0, 1.0, 0.0], "time": values[::-1]}
    assert read_table(written(tmp_path / name, backwards)).ood_score.tolist() == [0, 1, 2]


def test_p_values_rank_as_the_scores_did(tmp_path: Path, manifest: Manifest) -> None:
    table = read_table(written(tmp_path / "v.csv", columns()))
    by_p, by_score = drift(table, n=99), drift(table, manifest=manifest)
    assert (by_p.alarm_at, by_p.calibration_images) == (by_score.alarm_at, 99)
    assert by_p.log10_capital == pytest.approx(by_score.log10_capital, rel=1e-9)


def refuse(tmp_path: Path, error: type[Exception], sentence: str, name: str = "v.csv", **changed: Any) -> None:
    data = {k: v for k, v in {**columns(4, 2), **changed}.items() if v is not None}
    with pytest.raises(error, match=sentence):
        drift(read_table(written(tmp_path / name, data)), n=99)


def test_what_cannot_be_read_is_refused_with_its_place(tmp_path: Path) -> None:
    refuse(tmp_path, DataError, "neither a column 'ood_score' nor 'p_value'", ood_score=None, p_value=None)
    refuse(tmp_path, DataError, "'much' in column 'ood_score', row 2", ood_score=[1, "much", 3, 4])
    refuse(tmp_path, DataError, "'perhaps' in column 'is_ood', row 3", is_ood=[True, False, "perhaps", True])
    refuse(tmp_path, DataError, "'nan' in column 'time', row 1", time=["nan", 2, 3, 4])
    refuse(tmp_path, DataError, "'noon' in column 'time', row 1", time=["noon", 2, 3, 4])
    refuse(tmp_path, DataError, "p_value 0.123, which 99 calibration images cannot give", p_value=[0.1, 0.123, 0.2, 1])
    refuse(tmp_path, DataError, "p_value 0, which 99", p_value=[0.1, 0, 0.2, 1], name="v.parquet")
    refuse(tmp_path, ConfigError, "no column 'p_value'.*--guard", p_value=None)
    refuse(tmp_path, DataError, "has no rows", **{name: [] for name in columns()})


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="no such file of verdicts"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "bad.parquet").write_bytes(b"nothing")
    with pytest.raises(DataError, match="not a Parquet file"):
        read_table(tmp_path / "bad.parquet")
    (tmp_path / "bad.csv").write_bytes(b"ood_score\n\xff\xfe\n")
    with pytest.raises(DataError, match="neither a CSV file in UTF-8"):
        read_table(tmp_path / "bad.csv")
    (tmp_path / "ragged.csv").write_text("ood_score,is_ood\n1,true\n2\n")
    with pytest.raises(DataError, match="1 values in line 3, and 2 columns"):
        read_table(tmp_path / "ragged.csv")


def test_p_values_need_to_know_their_number(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--calibration-images 1000"):
        drift(read_table(written(tmp_path / "v.csv", columns())))


def command(*words: str) -> int | None:
    with pytest.raises(SystemExit) as ended:
        main(["drift", *words])
    return ended.value.code  # type: ignore[return-value]


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from guard.artefact.files import write_onnx

    write_onnx(tmp_path / "guard.onnx", colour_graph(), colour_manifest())
    table = str(written(tmp_path / "v.parquet", columns()))
    assert not command(table, "--guard", str(tmp_path / "guard.onnx"), "--out", str(tmp_path / "d.html"))
    printed = capsys.readouterr().out
    assert re.search(r"Drift: the alarm was raised at image 2\d\d of 400", printed)
    assert "flagged 5" in printed
    assert "<i>blue" in printed
    page = (tmp_path / "d.html").read_text()
    assert "&lt;i&gt;blue" in page
    assert "<i>blue" not in page
    assert json.loads((tmp_path / "d.json").read_text())["alarm"] is True
    assert not command(table, "--calibration-images", "99", "--json")
    assert json.loads(capsys.readouterr().out)["images"] == 400
    assert command(table) == 2
    assert "error: p-values say nothing" in capsys.readouterr().err


def test_a_quiet_stream_is_said_to_be(manifest: Manifest) -> None:
    report = DriftMonitor.of(manifest).update(np.random.default_rng(4).choice(REFERENCE, 50))
    assert headline(report).startswith("No drift found in 50 images")
    assert 'class="verdict good"' in render(report)


def test_a_folder_is_its_files_one_after_the_other(tmp_path: Path) -> None:
    whole = {name: values for name, values in columns().items() if name != "time"}
    pq.write_table(pa.table(whole), tmp_path / "whole.parquet")
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "report.html").write_text("not read")
    with pytest.raises(MissingDataError, match="kept has no file of verdicts"):
        read_table(folder)
    pq.write_table(pa.table(whole).slice(0, 150), folder / "monday.parquet")
    pq.write_table(pa.table(whole).slice(150), folder / "tuesday.parquet")
    one, two = (read_table(path) for path in (tmp_path / "whole.parquet", folder))
    np.testing.assert_array_equal(one.ood_score, two.ood_score)
    np.testing.assert_array_equal(one.is_ood, two.is_ood)
    assert one.class_name == two.class_name
    pq.write_table(pa.table({"ood_score": [1.0]}), folder / "wednesday.parquet")
    with pytest.raises(DataError, match=r"wednesday\.parquet has the columns"):
        read_table(folder)


def test_the_images_of_a_scan_are_taken_in_a_random_order(tmp_path: Path, manifest: Manifest) -> None:
    """A folder comes one class after the other, and one class's scores may all be higher: that is no drift."""
    scores = np.sort(np.random.default_rng(5).choice(REFERENCE, 4000))
    table = pa.table({"ood_score": scores, "class_name": [f"class {i // 2000}" for i in range(4000)]})
    pq.write_table(table, tmp_path / "part-00000.parquet")
    assert not drift(read_table(tmp_path), manifest=manifest).alarm
    assert drift(read_table(tmp_path / "part-00000.parquet"), manifest=manifest).alarm  # a file's order is kept
    np.testing.assert_array_equal(np.sort(read_table(tmp_path, seed=1).ood_score), scores)
    assert (read_table(tmp_path, seed=1).ood_score != read_table(tmp_path).ood_score).any()
    pq.write_table(table.append_column("time", pa.array(np.arange(4000.0))), tmp_path / "part-00000.parquet")
    np.testing.assert_array_equal(read_table(tmp_path).ood_score, scores)


def test_of_a_scan_only_the_verdicts_of_the_guard_are_read(tmp_path: Path, manifest: Manifest) -> None:
    verdicts = {"ood_score": [0.5, None], "is_ood": [False, None], "class_name": ["cat", None], "error": [None, "cut"]}
    pq.write_table(pa.table(verdicts), tmp_path / "part-00000.parquet")
    pq.write_table(pa.table({"ood_score": [9.0]}), tmp_path / "cross-fitted-5-0.parquet")
    report = drift(read_table(tmp_path), manifest=manifest)
    assert (report.images, report.unscored) == (1, 1)
    assert [(c.class_name, c.images) for c in report.classes] == [("cat", 1)]


def test_a_seed_is_checked(tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text("ood_score\n1.0\n")
    with pytest.raises(ConfigError, match="seed"):
        read_table(tmp_path / "v.csv", seed=-1)
    with pytest.raises(ConfigError, match="seed"):
        DriftMonitor(np.arange(99.0), seed=-1)
