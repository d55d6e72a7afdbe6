"""Nothing in a folder vanishes without a word, and nothing in it stops the reading but a sentence."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

import pytest

from guard.data import load
from guard.data.forms.listing import list_images
from guard.errors import DataError
from tests.guard.data.twelve_images import IMAGES, png, write_folder

HEIC = b"\x00\x00\x00\x18ftypheic" + b"\0" * 20


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("file", "ending"),
    [
        ("a.heic", ".heic"),
        ("B.HEIF", ".heif"),
        ("c.CR2", ".cr2"),
        ("d.svg", ".svg"),
        ("e.psd", ".psd"),
        ("f.pdf", ".pdf"),
        ("g.jpg_", ".jpg_"),
        ("h.JPG.txt", ".jpg.txt"),
        ("i", "without an ending"),
        ("j.npy", ".npy"),
        ("k.zip", ".zip"),
    ],
)
def test_what_looks_like_images_and_is_not_read_is_counted_and_named(
    file: str, ending: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_folder(tmp_path)
    (root / "ant" / file).write_bytes(HEIC)
    with caplog.at_level(logging.WARNING, "ood_guard"):
        data = load(root)
    assert warnings_of(caplog) == [
        f"1 of 5 files of class 'ant' are not read: 1 {ending}; convert them to PNG or JPEG, or remove them"
    ]
    assert dict(data.not_read) == {ending: 1}
    assert data.card({}).not_read == {ending: 1}


def test_unlabelled_images_too_and_several_classes_in_one_sentence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_folder(tmp_path / "set")
    for name in ("ant", "bee"):
        for i in range(3):
            (root / name / f"{i}.heic").write_bytes(HEIC)
    load(root, labelled=False)
    load(root)
    unlabelled, labelled = warnings_of(caplog)
    assert unlabelled.startswith("6 of 18 files in set are not read: 6 .heic;")
    assert labelled.startswith("3 of 7 files of class 'ant', 3 of 7 files of class 'bee' are not read: 6 .heic;")


def test_notes_beside_images_are_counted_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_folder(tmp_path)
    for name in ("labels.csv", "README", "README.md", "ant/00.xml", "ant/LICENSE", "bee/Thumbs.db", "bee/._04.png"):
        (root / name).write_text("text")
    data = load(root)
    assert warnings_of(caplog) == []
    assert dict(data.not_read) == {".csv": 1, ".md": 1, ".xml": 1, "no ending": 2}


@pytest.mark.parametrize("files", [["a.heic", "b.heic"], ["a.HEIC"]])
def test_a_class_without_a_readable_image_is_refused(files: list[str], tmp_path: Path) -> None:
    root = write_folder(tmp_path)
    (root / "dodo").mkdir()
    for file in files:
        (root / "dodo" / file).write_bytes(HEIC)
    with pytest.raises(DataError, match=rf"dodo holds no images that are read, but {len(files)} \.heic; convert"):
        load(root)
    with pytest.raises(DataError, match=rf"dodo holds no images that are read, but {len(files)} \.heic; convert"):
        load(root / "dodo", labelled=False)


@pytest.mark.parametrize(
    "name",
    [
        "@eaDir",
        "__MACOSX",
        ".thumbnails",
        "lost+found",
        "$RECYCLE.BIN",
        ".ipynb_checkpoints",
        "System Volume Information",
    ],
)
@pytest.mark.parametrize("level", [".", "ant"])
@pytest.mark.parametrize("images", [0, 2])
def test_what_systems_keep_beside_images_is_no_class(
    name: str, level: str, images: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_folder(tmp_path / "set")
    (root / level / name).mkdir()
    for i in range(images):
        (root / level / name / f"{i}.png").write_bytes(png(IMAGES[i]))
    data = load(root)
    assert data.class_names == ("ant", "bee", "cow")
    assert len(data) == 12
    expected = [f"set: hidden and system folders are left out, with images in them: 2 {name}"] if images else []
    assert warnings_of(caplog) == expected


@pytest.mark.parametrize("labelled", [True, False])
def test_a_broken_link_is_a_corrupt_image(labelled: bool, tmp_path: Path) -> None:
    root = write_folder(tmp_path)
    (root / "ant" / "gone.png").symlink_to(tmp_path / "nothing.png")
    with pytest.raises(DataError, match=r"1 of 13 images of .* cannot be read.*no such image: .*gone\.png"):
        load(root, labelled=labelled)
    for i in range(120):
        (root / "bee" / f"more{i}.png").write_bytes(png(IMAGES[i % 12] ^ i))
    data = load(root, labelled=labelled)
    assert len(data) == 132
    assert len(data.corrupt) == 1
    assert "gone.png" in data.corrupt[0]


def test_links_that_lead_back_bring_in_nothing(tmp_path: Path) -> None:
    root = write_folder(tmp_path)
    (root / "ant" / "up").symlink_to("..")
    (root / "ant" / "here").symlink_to(".")
    (root / "ant" / "self.png").symlink_to("self.png")
    assert len(list_images(root / "ant").images) == 5
    (root / "ant" / "self.png").unlink()
    data = load(root)
    assert data.labels is not None
    assert data.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_a_link_to_images_elsewhere_is_followed(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set")
    (root / "ant").rename(tmp_path / "ants")
    (root / "ant").symlink_to(tmp_path / "ants")
    assert len(load(root)) == 12


def test_pipes_and_sockets_are_never_opened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_folder(tmp_path)
    os.mkfifo(root / "ant" / "pipe.png")
    os.mkfifo(root / "ant" / "pipe")
    monkeypatch.chdir(root / "bee")
    with socket.socket(socket.AF_UNIX) as here:
        here.bind("socket.png")
        assert len(load(root)) == 12
    assert "3 that are no regular files" in warnings_of(caplog)[0]


def test_a_list_of_paths_with_a_pipe_in_it(tmp_path: Path) -> None:
    root = write_folder(tmp_path)
    os.mkfifo(root / "pipe.png")
    paths = [*sorted(root.glob("ant/*")), root / "pipe.png"]
    with pytest.raises(DataError, match=r"pipe\.png' is a pipe, a socket or a device; give the path of a file"):
        load((paths, [0, 1, 0, 1, 1]))


def test_a_folder_with_an_image_s_ending_is_a_folder(tmp_path: Path) -> None:
    root = write_folder(tmp_path)
    (root / "ant" / "album.png").mkdir()
    (root / "ant" / "album.png" / "a.png").write_bytes(png(IMAGES[0] ^ 1))
    assert len(load(root)) == 13


@pytest.mark.parametrize("where", ["set", "set/ant"])
def test_a_folder_that_cannot_be_listed_is_named(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_folder(tmp_path / "set")
    scandir = os.scandir

    def denied(path: str) -> object:
        if str(path) == str(tmp_path / where):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("guard.data.forms.listing.os.scandir", denied)
    with pytest.raises(DataError, match=rf"{where}' cannot be listed \(Permission denied\)"):
        load(root)


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), FileNotFoundError(2, "No such file")])
def test_a_file_that_cannot_be_opened_is_a_corrupt_image(
    error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_folder(tmp_path)
    read, opened = Path.read_bytes, open

    def refused(path: object) -> bool:
        return str(path).endswith("00.png")

    def read_bytes(path: Path) -> bytes:
        if refused(path):
            raise error
        return read(path)

    def open_(path: str, mode: str) -> object:
        if refused(path):
            raise error
        return opened(path, mode)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    monkeypatch.setattr("guard.preprocess.open", open_, raising=False)
    with pytest.raises(DataError, match=r"1 of 12 images of .* cannot be read.*00\.png"):
        load(root)


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a\nb", b"a\tb", b"a\x7fb"])
def test_a_class_whose_name_no_file_can_keep_is_refused(name: bytes, tmp_path: Path) -> None:
    root = write_folder(tmp_path)
    os.rename(os.fsencode(root / "ant"), os.path.join(os.fsencode(root), name))
    with pytest.raises(DataError, match=r"is not UTF-8 or has a line break .*; rename the class or its folder"):
        load(root)


@pytest.mark.parametrize("name", [b"\xff.png", b"a\nb.png", b"x" * 250 + b".png"])
def test_files_may_have_any_name(name: bytes, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set")
    with open(os.path.join(os.fsencode(root), b"ant", name), "wb") as file:
        file.write(png(IMAGES[0] ^ 1))
    assert len(load(root)) == 13
    with open(os.path.join(os.fsencode(root), b"ant", name), "wb") as file:
        file.write(b"")
    with pytest.raises(DataError, match="empty") as caught:
        load(root)
    str(caught.value).encode()


def test_a_folder_of_any_name_can_be_kept(tmp_path: Path) -> None:
    root = os.path.join(os.fsencode(tmp_path), b"set\xff\n")
    os.rename(os.fsencode(write_folder(tmp_path / "set")), root)
    assert load(os.fsdecode(root)).name == "set\\udcff\\n"


@pytest.mark.parametrize("path", ["~nobody-here/x", "x" * 5000, "a\0b"])
def test_what_no_path_can_be_is_one_sentence(path: str) -> None:
    with pytest.raises(DataError, match="accepted: a folder with one sub-folder") as caught:
        load(path)
    assert len(str(caught.value)) < 600
