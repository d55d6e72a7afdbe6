"""Where results go is tried first: no work is lost to a folder that cannot be written to."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from guard import cli
from guard.artefact.places import check_room, check_unclaimed, report_file, writable_file, writable_folder
from guard.errors import ConfigError

BAD = ["file/x", "x" * 300, "a\0b", "/proc/x/y"]


@pytest.mark.parametrize("name", BAD)
def test_a_folder_that_cannot_be_is_one_sentence(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"^out='.*' cannot be written to \(.*\); choose another folder$") as caught:
        writable_folder(tmp_path / name)
    assert len(str(caught.value)) < 300 + len(str(tmp_path))
    with pytest.raises(ConfigError, match=r"cannot be written"):
        writable_file(tmp_path / name / "report.html")


def test_the_numbers_of_a_report_replace_nothing_but_a_report(tmp_path: Path) -> None:
    """NAME.json beside NAME.html: in a run folder guard.json is the guard's."""
    (tmp_path / "guard.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"guard\.html' writes its numbers to guard\.json, which is there"):
        report_file(tmp_path / "guard.html")
    (tmp_path / "old.json").write_text("{}")
    (tmp_path / "old.html").write_text("<p>")
    for name in ("old.html", "new.html", "more/new.htm"):
        assert report_file(tmp_path / name) == tmp_path / name
    for name in ("guard.json", "guard.onnx", "guard", "new.pdf"):
        with pytest.raises(ConfigError, match=r"^out must end in \.html .*" + name):
            report_file(tmp_path / name)


def test_a_page_without_its_numbers_is_no_report(tmp_path: Path) -> None:
    """A scan's report.html has its numbers in summary.json."""
    (tmp_path / "report[1].html").write_text("<p>")
    with pytest.raises(
        ConfigError, match=r"holds report\[1\]\.html and no report\[1\]\.json, so it is something else's"
    ):
        report_file(tmp_path / "report[1].html")


def test_a_folder_s_files_are_a_command_s_own_where_its_card_is(tmp_path: Path) -> None:
    check_unclaimed(tmp_path, ["scan.json"], ["report.html", "part-*.parquet"])
    (tmp_path / "part-00007.parquet").touch()
    with pytest.raises(ConfigError, match=r"holds part-00007\.parquet and no scan\.json, .* give another out="):
        check_unclaimed(tmp_path, ["scan.json", "other"], ["report.html", "part-*.parquet"])
    check_unclaimed(tmp_path, ["scan.json"], ["report.html"])
    (tmp_path / "other").mkdir()
    check_unclaimed(tmp_path, ["scan.json", "other"], ["report.html", "part-*.parquet"])


@pytest.mark.parametrize("command", ["bench", "eval", "drift"])
def test_every_report_is_refused_before_the_work(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "guard.json").write_text("{}")
    inputs = {"bench": ["x.onnx"], "eval": ["x.onnx", "--id", "digits"], "drift": ["v.csv"]}[command]
    with pytest.raises(SystemExit, match="2"):
        cli.main([command, *inputs, "--out", str(tmp_path / "guard.html")])
    assert "writes its numbers to guard.json" in capsys.readouterr().err
    assert (tmp_path / "guard.json").read_text() == "{}"


def test_a_folder_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(**_: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("guard.artefact.places.tempfile.TemporaryFile", denied)
    with pytest.raises(ConfigError, match=r"cannot be written to \(Permission denied\)"):
        writable_folder(tmp_path)


def test_files_and_folders_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"^out='.*/file' is a file; give a folder$"):
        writable_folder(tmp_path / "file")
    with pytest.raises(ConfigError, match=r"^out='.*' is a folder; give a file's name in it$"):
        writable_file(tmp_path)


def test_of_a_link_the_folder_that_is_written_to_is_tried(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/proc/x/guard.onnx")
    with pytest.raises(ConfigError, match=r"^out='/proc/x' cannot be written to \(.*\); choose another folder$"):
        writable_file(tmp_path / "link")
    (tmp_path / "dangling").symlink_to(tmp_path / "new" / "guard.onnx")
    assert writable_file(tmp_path / "dangling") == tmp_path / "dangling"
    assert (tmp_path / "new").is_dir()


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    assert list(writable_folder(tmp_path / "new" / "run").iterdir()) == []
    assert not writable_file(tmp_path / "new" / "guard.onnx").exists()


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 9 * 10**8, 10**8))
    check_room(tmp_path, 8 * 10**7)
    with pytest.raises(ConfigError, match=r"has 100 MB free, and checkpoints and guard need about 107 MB; make room"):
        check_room(tmp_path, 9 * 10**7)
