"""GUARD_KEEP_FLAGGED: which images are kept, under which names, in how many bytes, by several processes."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from guard.errors import ConfigError
from serving import flagged
from serving.app import App
from serving.flagged import MANIFEST, Flagged, FlaggedFolder, Keeper
from serving.settings import Settings
from tests.serving.answers import DARK, RED, Encode
from tests.serving.test_open_inference import INFER, ask, pixels, tensor

LINE = {"time": "now", "request_id": "1", "ood_score": 1.0, "p_value": 0.5, "class_name": "cat", "model": "a@b"}


def manifest(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / MANIFEST).read_text().splitlines()]


def images(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "." and path.name != MANIFEST}


def held(folder: Path) -> int:
    return sum(map(len, images(folder).values())) + (folder / MANIFEST).stat().st_size


def test_a_service_keeps_what_it_flags_and_nothing_else(colour_guard: Path, tmp_path: Path, encode: Encode) -> None:
    folder, dark = tmp_path / "new" / "kept", encode(DARK, size=(30, 20), format="JPEG")
    app = App(Settings(model=colour_guard, threads=1, keep_flagged=folder))
    with TestClient(app.asgi) as client:
        client.post("/predict", content=encode(RED))
        form = {"image": ("../../evil.exe", dark)}
        answer = client.post("/predict", files=form, headers={"X-Request-Id": "me-1"}).json()
        client.post(INFER, json=ask(tensor("images", pixels(DARK, RED), "UINT8")))
    name = f"{hashlib.sha256(dark).hexdigest()}.jpg"
    first, second = manifest(folder)
    assert set(images(folder)) == {name, second["file"]}
    assert images(folder)[name] == dark
    kept = {key: answer[key] for key in ("ood_score", "p_value", "class_name", "model")}
    assert {key: value for key, value in first.items() if key != "time"} == {"request_id": "me-1", "file": name, **kept}
    assert np.array_equal(np.asarray(Image.open(folder / second["file"])), pixels(DARK)[0])
    assert folder.stat().st_mode & 0o077 == 0  # what people send is nobody else's


def test_by_default_nothing_is_kept(colour_guard: Path) -> None:
    assert App(Settings(model=colour_guard)).worker._keeper is None


def test_the_same_image_is_one_file_and_two_lines(tmp_path: Path) -> None:
    folder = FlaggedFolder(tmp_path, 10_000)
    assert [folder.keep(Flagged(b"GIF8 one", LINE)) for _ in range(2)] == [True, True]
    assert (len(images(tmp_path)), len(manifest(tmp_path))) == (1, 2)


def test_the_oldest_make_room_with_their_lines(tmp_path: Path) -> None:
    folder = FlaggedFolder(tmp_path, 20_000)
    sent = [bytes([i]) * 3000 for i in range(30)]
    for i, data in enumerate(sent):
        assert folder.keep(Flagged(data, LINE))
        os.utime(tmp_path / f"{hashlib.sha256(data).hexdigest()}.png", ns=(i, i))  # clocks may be coarse
        assert held(tmp_path) <= 20_000
    kept = list(images(tmp_path).values())
    assert 3 <= len(kept) <= 6
    assert sorted(kept) == sent[-len(kept) :]
    names = [f"{hashlib.sha256(data).hexdigest()}.png" for data in sent]
    assert [line["file"] for line in manifest(tmp_path)] == names[-len(kept) :]  # in the order they came


def test_one_image_again_and_again_neither_fills_the_folder_nor_leaves_it(tmp_path: Path) -> None:
    folder = FlaggedFolder(tmp_path, 5000)
    for _ in range(300):
        assert folder.keep(Flagged(b"x" * 1000, LINE))
        assert held(tmp_path) <= 5000
    assert len(images(tmp_path)) == 1
    assert not folder.keep(Flagged(b"y" * 5000, LINE))  # never fits: nothing else is dropped for it
    assert len(images(tmp_path)) == 1


def test_what_others_changed_is_counted_again(tmp_path: Path) -> None:
    FlaggedFolder(tmp_path, 9000).keep(Flagged(b"a" * 4000, LINE))
    (tmp_path / ".bytes").write_text("nonsense")
    (tmp_path / MANIFEST).write_bytes((tmp_path / MANIFEST).read_bytes() + b'{"cut sho')  # a kill
    folder = FlaggedFolder(tmp_path, 9000)
    for i in range(5):
        assert folder.keep(Flagged(bytes([i]) * 4000, LINE))
        assert held(tmp_path) <= 9000


def _keep_many(folder: str, worker: int) -> None:
    kept = FlaggedFolder(Path(folder), 60_000)
    for i in range(25):
        kept.keep(Flagged(f"{worker} {i}".encode() * 200, {**LINE, "request_id": f"{worker}-{i}"}))


def test_workers_share_the_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_keep_many, args=(str(tmp_path), i)) for i in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert held(tmp_path) <= 60_000
    assert {line["file"] for line in manifest(tmp_path)} == set(images(tmp_path))
    assert all(hashlib.sha256(data).hexdigest() == name.partition(".")[0] for name, data in images(tmp_path).items())


def test_a_slow_disk_holds_nobody_up_and_fills_no_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free, wrote = threading.Event(), []
    folder = FlaggedFolder(tmp_path, 10**9)
    monkeypatch.setattr(folder, "keep", lambda one: free.wait(20) and wrote.append(one) is None)
    keeper = Keeper(folder)
    began = time.monotonic()
    for _ in range(1000):
        keeper.put(Flagged(b"x" * 1_000_000, LINE))
    assert time.monotonic() - began < 10
    assert keeper._bytes <= flagged._WAITING_BYTES
    free.set()
    keeper.close(30)
    assert 60 <= len(wrote) <= 70


def test_a_disk_that_refuses_is_one_warning_and_no_error(
    colour_guard: Path,
    tmp_path: Path,
    encode: Encode,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(flagged, "_write", full)
    with (
        caplog.at_level(logging.WARNING),
        TestClient(App(Settings(model=colour_guard, keep_flagged=tmp_path)).asgi) as c,
    ):
        assert [c.post("/predict", content=encode(DARK)).status_code for _ in range(5)] == [200] * 5
    assert caplog.text.count("a flagged image cannot be kept: [Errno 28] No space left on device") == 1


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"GUARD_KEEP_FLAGGED=.*file/kept cannot be written to \(Not a directory\)"):
        FlaggedFolder(tmp_path / "file" / "kept", 100)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_a_files_ending_is_that_of_its_content(tmp_path: Path, encode: Callable[..., bytes], format: str) -> None:
    FlaggedFolder(tmp_path, 10**6).keep(Flagged(encode(RED, format=format), LINE))
    ((name, data),) = images(tmp_path).items()
    assert name.endswith({"JPEG": ".jpg"}.get(format, f".{format.lower()}"))
    assert Image.open(io.BytesIO(data)).format == format


def test_what_others_keep_in_the_folder_is_theirs(tmp_path: Path) -> None:
    """Pictures of the user's own, and lines of another program, are neither counted nor removed."""
    photos = {f"holiday{i}.jpg": os.urandom(5000) for i in range(5)}
    for name, data in photos.items():
        (tmp_path / name).write_bytes(data)
    theirs = [json.dumps({"file": "holiday0.jpg", "note": "beach"}), json.dumps(["a", "list"])]
    (tmp_path / MANIFEST).write_text("\n".join(theirs) + "\n")
    folder = FlaggedFolder(tmp_path, 9000)
    for i in range(6):
        assert folder.keep(Flagged(b"\xff\xd8\xff" + bytes([i]) * 3000, LINE))
    assert {name: (tmp_path / name).read_bytes() for name in photos} == photos
    lines = (tmp_path / MANIFEST).read_text().splitlines()
    assert lines[:2] == theirs
    assert 1 <= len(lines) - 2 <= 2  # as many as fit


def test_a_line_that_the_disk_cuts_short_is_taken_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = FlaggedFolder(tmp_path, 10**6)
    folder.keep(Flagged(b"one", LINE))
    whole = os.write
    monkeypatch.setattr(flagged.os, "write", lambda where, data: whole(where, data[:5]))
    with pytest.raises(OSError, match="No space left"):
        folder.keep(Flagged(b"two", LINE))
    monkeypatch.undo()
    folder.keep(Flagged(b"three", LINE))
    assert [line["file"] for line in manifest(tmp_path)] == [
        f"{hashlib.sha256(image).hexdigest()}.png" for image in (b"one", b"three")
    ]
