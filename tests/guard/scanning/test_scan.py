"""`guard scan`: what is written, from which data, and what it costs to be interrupted."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import guard
from guard import cli
from guard.errors import ArtefactDamagedError, DataError
from guard.scanning import shards
from tests.guard.data.test_tars import write_tar
from tests.guard.image_files import encoded
from tests.guard.scanning.conftest import CLASSES, PER_CLASS, SMALL, pixels, rows_of

ROOT = Path(__file__).parents[3]


def test_every_row_is_what_predict_says(colours: Path, folder: Path, tmp_path: Path) -> None:
    found = guard.scan(colours, folder, out=tmp_path / "out", workers=2, **SMALL)
    rows, paths = rows_of(tmp_path / "out"), sorted(folder.rglob("*.png"))
    assert [row["row"] for row in rows] == list(range(90))
    assert [row["path"] for row in rows] == [path.relative_to(folder).as_posix() for path in paths]
    for row, verdict in zip(rows, guard.load(colours, device="cpu").predict(paths), strict=True):
        assert row["error"] is None
        assert {name: row[name] for name in ("label", "class_name", "is_ood")} == {
            "label": verdict.label,
            "class_name": verdict.class_name,
            "is_ood": verdict.is_ood,
        }
        assert row["probability"] == pytest.approx(verdict.probability)
        assert row["ood_score"] == pytest.approx(verdict.ood_score)
        assert row["p_value"] == pytest.approx(verdict.p_value)
    assert (found.images, found.scored, found.flagged, found.shards, found.made) == (90, 90, 3, 5, 5)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_nothing_depends_on_workers_or_batches(colours: Path, folder: Path, tmp_path: Path, workers: int) -> None:
    guard.scan(colours, folder, out=tmp_path / "a", workers=0, shard_size=20, device="cpu")
    guard.scan(colours, folder, out=tmp_path / "b", workers=workers, **{**SMALL, "batch_size": 7})
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")


def _parquet(tmp_path: Path) -> Any:
    images = [{"bytes": encoded(Image.fromarray(image), "PNG"), "path": None} for image in pixels()]
    pq.write_table(pa.table({"image": images}), tmp_path / "colours.parquet", row_group_size=25)
    return tmp_path / "colours.parquet"


def _csv(tmp_path: Path) -> Any:
    folder = tmp_path / "listed"
    folder.mkdir()
    for i, image in enumerate(pixels()):
        Image.fromarray(image).save(folder / f"{i:02d}.png")
    lines = [f"listed/{i:02d}.png,{CLASSES[i // PER_CLASS]}" for i in range(90)]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    return tmp_path / "list.csv"


def _tar(tmp_path: Path) -> Any:
    members = [(f"{i:02d}.png", encoded(Image.fromarray(image), "PNG")) for i, image in enumerate(pixels())]
    return write_tar(tmp_path / "shard.tar", members)


def _url(tmp_path: Path) -> Any:
    fs = fsspec.filesystem("memory")
    for i, image in enumerate(pixels()):
        fs.pipe(f"/{tmp_path.name}/{i:02d}.png", encoded(Image.fromarray(image), "PNG"))
    return f"memory://{tmp_path.name}"


def _hub(tmp_path: Path) -> Any:
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_dict({"image": [Image.fromarray(image) for image in pixels()]})


@pytest.mark.parametrize(
    ("form", "keys"),
    [
        (_parquet, ("colours.parquet#0", "colours.parquet#89")),
        (_csv, ("listed/00.png", "listed/89.png")),
        (_hub, ("#0", "#89")),
        (_tar, ("shard.tar/00.png", "shard.tar/89.png")),
        (_url, ("00.png", "89.png")),
        (lambda _: pixels(), ("#0", "#89")),
        (lambda _: [Image.fromarray(image) for image in pixels()], ("#0", "#89")),
    ],
    ids=["parquet", "csv", "hub", "tar", "url", "array", "list"],
)
def test_every_form_of_data_gives_the_same_verdicts(
    form: Any, keys: tuple[str, str], colours: Path, tmp_path: Path
) -> None:
    guard.scan(colours, form(tmp_path), out=tmp_path / "out", workers=1, **SMALL)
    rows = rows_of(tmp_path / "out")
    assert rows[0]["path"].endswith(keys[0])
    assert rows[-1]["path"].endswith(keys[1])
    wanted = guard.load(colours, device="cpu").predict(pixels())
    np.testing.assert_allclose([row["ood_score"] for row in rows], wanted.ood_score, rtol=1e-6)
    assert [row["class_name"] for row in rows] == wanted.class_name


def test_a_guard_in_memory_keeps_its_own_calibration(colours: Path, folder: Path, tmp_path: Path) -> None:
    """Its file, which the processes open, has another one."""
    bright = np.random.default_rng(1).integers(200, 256, (99, 8, 8, 3), dtype=np.uint8)
    g = guard.load(colours, device="cpu").calibrate(bright, alpha=0.1)
    found = guard.scan(g, folder, out=tmp_path / "out", workers=2, **SMALL)
    assert found.flagged == 90
    assert found.target_rate == 0.1


# ---------------------------------------------------------------------------------------------------- corrupt images


def test_corrupt_images_are_named_and_stop_nothing(colours: Path, folder: Path, tmp_path: Path) -> None:
    """Many more than the 1 % at which training stops."""
    for i in range(20):
        (folder / "green" / f"{i:02d}.png").write_bytes(b"" if i % 2 else b"\x89PNG\r\n\x1a\n broken")
    (folder / "red" / "link.png").symlink_to(folder / "nowhere.png")
    found = guard.scan(colours, folder, out=tmp_path / "out", workers=2, **SMALL)
    rows = rows_of(tmp_path / "out")
    broken = [row for row in rows if row["error"] is not None]
    assert (len(rows), len(broken), found.corrupt, found.scored) == (91, 21, 21, 70)
    assert {row["path"] for row in broken} == {f"green/{i:02d}.png" for i in range(20)} | {"red/link.png"}
    assert all(row[name] is None for row in broken for name in ("label", "class_name", "ood_score", "p_value"))
    errors = {c.path: c.error for c in found.corrupt_images}
    assert "empty (0 bytes)" in errors["green/01.png"]
    assert "damaged or cut short PNG" in errors["green/00.png"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "21 images." in page
    assert "red/link.png" in page


def test_a_damaged_row_group_costs_its_own_rows_alone(colours: Path, tmp_path: Path) -> None:
    path = _parquet(tmp_path)
    place = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    middle = place.dictionary_page_offset + 30
    data[middle : middle + 200] = bytes(200)
    path.write_bytes(data)
    found = guard.scan(colours, path, out=tmp_path / "out", workers=1, **SMALL)
    assert found.corrupt == 25
    good = [row["row"] for row in rows_of(tmp_path / "out") if row["error"] is None]
    assert good == [*range(25), *range(50, 90)]


def test_a_scan_of_nothing_but_corrupt_images_says_so(colours: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"no image")
    found = guard.scan(colours, tmp_path / "images", out=tmp_path / "out", device="cpu")
    assert (found.ood_rate, found.scored, found.corrupt) == (None, 0, 1)
    assert "could not be read" in str(found)


# ------------------------------------------------------------------------------------------------- killed and resumed

KILLED = """
import sys, time, guard
from guard.scanning import scan
write = scan.write_shard
def slowly(folder, shard, *rest):
    write(folder, shard, *rest)
    print(shard.name, flush=True)
    time.sleep(0.3)
scan.write_shard = slowly
guard.scan(sys.argv[1], sys.argv[2], out=sys.argv[3], workers=2, shard_size=20, batch_size=8, device="cpu")
"""


def test_a_scan_killed_in_the_middle_goes_on_without_loss(colours: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(colours), str(folder), str(out)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        for _ in range(2):
            running.stdout.readline()
        running.kill()
    there = sorted(path.name for path in out.glob("part-*.parquet"))
    assert there == ["part-00000.parquet", "part-00001.parquet"]
    before = {name: (out / name).stat().st_mtime_ns for name in there}
    (out / ".part-00002.parquet.x.part").write_bytes(b"half a file")

    resumed = guard.scan(colours, folder, out=out, workers=2, **SMALL)
    whole = guard.scan(colours, folder, out=tmp_path / "whole", workers=2, **SMALL)
    assert (resumed.made, whole.made) == (3, 5)
    assert {name: (out / name).stat().st_mtime_ns for name in there} == before  # not scored again
    assert rows_of(out) == rows_of(tmp_path / "whole")
    assert [row["row"] for row in rows_of(out)] == list(range(90))
    assert list(out.glob(".part-*")) == []
    ours, theirs = (json.loads((folder / "summary.json").read_text()) for folder in (out, tmp_path / "whole"))
    assert {**ours, "out": "", "made": 0} == {**theirs, "out": "", "made": 0}


def test_a_scan_that_is_done_is_only_read(
    colours: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = guard.scan(colours, folder, out=tmp_path / "out", workers=0, **SMALL)
    monkeypatch.setattr("guard.scanning.scan._write", lambda *_: pytest.fail("scored again"))
    again = guard.scan(colours, folder, out=tmp_path / "out", workers=0, **SMALL)
    assert again == first.model_copy(update={"made": 0})


def test_a_shard_that_was_cut_short_is_made_again(colours: Path, folder: Path, tmp_path: Path) -> None:
    guard.scan(colours, folder, out=tmp_path / "out", workers=0, **SMALL)
    shard = tmp_path / "out" / "part-00001.parquet"
    rows, content = rows_of(tmp_path / "out"), shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    assert guard.scan(colours, folder, out=tmp_path / "out", workers=0, **SMALL).made == 1
    assert rows_of(tmp_path / "out") == rows


def test_a_process_that_is_killed_is_replaced(
    colours: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost and nothing doubled; a group that ends two of them stops the scan, with what is done kept."""
    from guard.scanning import processes, scan

    started: list[processes.Process] = []
    begin = processes.Process.__init__

    def noted(self: processes.Process, job: processes.Job) -> None:
        begin(self, job)
        started.append(self)

    def and_kill(*arguments: Any) -> None:
        shards.write_shard(*arguments)
        if len(started) < 3:
            started[0]._running.kill()

    monkeypatch.setattr(processes.Process, "__init__", noted)
    monkeypatch.setattr(scan, "write_shard", and_kill)
    guard.scan(colours, folder, out=tmp_path / "out", workers=2, **SMALL)
    assert len(started) >= 3
    assert [row["row"] for row in rows_of(tmp_path / "out")] == list(range(90))
    assert all(process._running.poll() is not None for process in started)  # none is left
    monkeypatch.setattr(processes.Process, "score", lambda *_: (_ for _ in ()).throw(EOFError))
    with pytest.raises(DataError, match="ended twice at the images 0 to 7"):
        guard.scan(colours, folder, out=tmp_path / "other", workers=1, **SMALL)


# ------------------------------------------------------------------------------------------------------ what is loaded


def test_an_exported_guard_needs_no_torch(colours: Path, folder: Path, tmp_path: Path) -> None:
    """Neither here nor in the processes, which would end when they import one of these."""
    script = f"""
import sys
for name in ("torch", "sklearn", "scipy", "datasets", "timm", "onnx"):
    sys.modules[name] = None  # importing one is an error
import guard
from guard.scanning import processes
processes.sys = type("Sys", (), {{"executable": sys.executable, "path": [{str(tmp_path / "absent")!r}, *sys.path]}})
found = guard.scan({str(colours)!r}, {str(folder)!r}, out={str(tmp_path / "out")!r}, workers=2, shard_size=20,
                   batch_size=8, device="cpu", labelled=True)
print(found.scored, "onnxruntime" in sys.modules)
"""
    (tmp_path / "absent").mkdir()
    for name in ("torch", "sklearn", "datasets"):
        (tmp_path / "absent" / f"{name}.py").write_text("raise SystemExit('imported')")
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["90", "False"], done.stderr
    assert time.perf_counter() - begun < 60


# ---------------------------------------------------------------------------------------------------- the command line


def test_on_the_command_line(colours: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["scan", str(colours), str(folder), "--out", str(tmp_path / "out"), "--shard-size", "50", "--device", "cpu"]
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert not end.value.code
    said = capsys.readouterr()
    assert "3 flagged as out-of-distribution: 3.33 %" in said.out
    assert "2 Parquet files in" in said.out
    with pytest.raises(SystemExit) as end:
        cli.main([*words, "--json"])
    assert not end.value.code
    assert json.loads(capsys.readouterr().out)["made"] == 0
    with pytest.raises(SystemExit) as end:
        cli.main([*words[:-4], "--shard-size", "0"])
    assert end.value.code == 2
    assert "shard_size must be at least 1, got 0" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["part-00001.parquet", "cross-fitted-3-0.parquet"])
@pytest.mark.parametrize("how", ["content", "columns"])
def test_a_damaged_file_of_a_scan_is_named(name: str, how: str, tmp_path: Path) -> None:
    """Its footer is whole, so nothing shows before it is read."""
    images, rows = np.random.default_rng(0).bytes(4000), 20
    table = pa.table({"row": range(rows), "path": [images.hex()[i * 400 :][:400] for i in range(rows)]})
    path = tmp_path / name
    if how == "content":
        errors = pa.array([None] * rows, pa.string())
        pq.write_table(table.append_column("error", errors), path, compression="zstd")
        whole = path.read_bytes()
        path.write_bytes(whole[:200] + bytes(1000) + whole[1200:])
    else:
        pq.write_table(table, path)
    shard = shards.Shard(name, 0, rows)
    assert shards.is_whole(tmp_path, shard)
    for read in (shards.read_errors(tmp_path, [shard]), shards.read_shards(tmp_path, [shard], ["row", "path"])):
        with pytest.raises(ArtefactDamagedError, match=rf"{name} is damaged \(.*\); remove it and scan again"):
            list(read)


def test_a_scan_says_which_of_its_files_is_damaged_and_goes_on_without_it(
    colours: Path, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    guard.scan(colours, folder, out=out, workers=0, **SMALL)
    path, before = out / "part-00003.parquet", rows_of(out)
    whole = path.read_bytes()
    path.write_bytes(whole[:40] + bytes(400) + whole[440:])
    with pytest.raises(ArtefactDamagedError, match=r"part-00003\.parquet is damaged"):
        guard.scan(colours, folder, out=out, workers=0, **SMALL)
    path.unlink()
    assert guard.scan(colours, folder, out=out, workers=0, **SMALL).made == 1
    assert rows_of(out) == before
