"""What makes a scan the same one, and what a folder is refused for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import guard
from guard.errors import ConfigError, MissingExtraError
from guard.scanning.plan import alone
from tests.guard.scanning.conftest import SMALL, pixels


def test_another_scan_is_refused_with_the_fix(colours: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    guard.scan(colours, folder, out=out, workers=0, **SMALL)
    g = guard.load(colours, device="cpu").calibrate(pixels(), alpha=0.2)
    for other, changed, meaning in (
        (colours, {"shard_size": 30}, r"another shard_size \(20 there, 30 now\)"),
        (colours, {"labelled": True}, "another choice of labelled="),
        (g, {}, "another guard, or this one with another calibration"),
    ):
        with pytest.raises(ConfigError, match=meaning) as caught:
            guard.scan(other, folder, out=out, workers=0, **{**SMALL, **changed})
        assert "give another out=, or remove that folder" in str(caught.value)
    (folder / "red" / "05.png").rename(folder / "red" / "055.png")
    with pytest.raises(ConfigError, match="files were added, removed, renamed or changed"):
        guard.scan(colours, folder, out=out, workers=0, **SMALL)


@pytest.mark.parametrize("name", ["part-00000.parquet", "summary.json", "report.html", "cross-fitted-5-0.parquet"])
def test_a_folder_that_is_not_a_scan_is_refused(name: str, colours: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"somebody's")
    with pytest.raises(ConfigError, match=f"holds {name} and no scan.json"):
        guard.scan(colours, folder, out=tmp_path, **SMALL)
    assert (tmp_path / name).read_bytes() == b"somebody's"
    (tmp_path / "scan.json").write_text("{")
    with pytest.raises(ConfigError, match=r"scan\.json is damaged"):
        guard.scan(colours, folder, out=tmp_path, **SMALL)


def test_a_folder_in_the_data_is_refused(colours: Path, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"lies in the data, .*; give a folder beside it"):
        guard.scan(colours, folder, out=folder / "out", **SMALL)
    assert not (folder / "out").exists()


def test_two_scans_at_once_into_one_folder_are_refused(colours: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with alone(tmp_path / "out"), pytest.raises(ConfigError, match="another scan writes into"):
        guard.scan(colours, folder, out=tmp_path / "out", **SMALL)


def test_without_pyarrow_the_extra_is_named(
    colours: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"ood-guard\[scan\]"):
        guard.scan(colours, folder, out=tmp_path / "out", **SMALL)
