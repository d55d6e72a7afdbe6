"""WebDataset tar files: samples, labels, keys, and what is damaged."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from guard.data import load
from guard.data.forms import open_source
from guard.errors import DataError, ImageError
from guard.preprocess import open_image
from tests.guard.data.twelve_images import IMAGES, LABELS, NAMES, png


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def samples(rows: range, label: str = "{0}") -> list[tuple[str, bytes]]:
    found = []
    for i in rows:
        found += [(f"set/{i:03d}.png", png(IMAGES[i])), (f"set/{i:03d}.json", b"{}")]
        found.append((f"set/{i:03d}.cls", label.format(LABELS[i], NAMES[LABELS[i]]).encode()))
    return found


def test_samples_of_several_files_are_rows_in_order(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-000.tar", samples(range(5)))
    write_tar(tmp_path / "train-001.tar", samples(range(5, 12)))
    for given in (tmp_path, tmp_path / "train-*.tar"):
        data = load(str(given))
        assert data.array is not None
        assert np.array_equal(data.array, IMAGES)
        assert np.array_equal(data.labels, LABELS)
        assert data.class_names == ("0", "1", "2")
    source = open_source(tmp_path, labelled=False)
    assert [source.key(row) for row in (0, 5)] == ["train-000.tar/set/000.png", "train-001.tar/set/005.png"]  # type: ignore[attr-defined]
    assert source.where(5) == f"set/005.png in {tmp_path / 'train-001.tar'}: "
    shuffled = source.items(np.array([11, 0, 6, 2]))
    assert [np.asarray(open_image(item))[0, 0].tolist() for item in shuffled] == [
        IMAGES[i, 0, 0].tolist() for i in (11, 0, 6, 2)
    ]


def test_labels_may_be_names_and_are_needed_for_every_image(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", samples(range(12), "{1}\n"))
    data = load(path)
    assert data.class_names == NAMES
    assert np.array_equal(data.labels, LABELS)
    write_tar(path, [*samples(range(11)), ("set/last.png", png(IMAGES[11]))])
    assert len(load(path, labelled=False)) == 12
    with pytest.raises(DataError, match=r"set/last\.png in .*a\.tar: there is no \.cls beside the image"):
        load(path)


def test_the_fingerprint_is_of_content_and_labels(tmp_path: Path) -> None:
    first = open_source(write_tar(tmp_path / "a.tar", samples(range(12))), labelled=True).fingerprint()
    again = open_source(write_tar(tmp_path / "b.tar", samples(range(12))), labelled=True).fingerprint()
    other = open_source(write_tar(tmp_path / "c.tar", samples(range(11))), labelled=True).fingerprint()
    assert first == again != other


def test_other_members_are_counted_and_hidden_ones_are_not(tmp_path: Path) -> None:
    extra = [
        ("set/000.mask.npy", b"x"),
        ("set/._000.png", b"x"),
        ("set/a.heic", b"x"),
        ("set/000.b.png", png(IMAGES[1])),
    ]
    source = open_source(write_tar(tmp_path / "a.tar", [*samples(range(3)), *extra]), labelled=False)
    assert len(source) == 4
    assert source.not_read == {".mask.npy": 1, ".heic": 1}  # type: ignore[attr-defined]


def test_a_file_that_is_cut_short_gives_what_is_before(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", samples(range(12)))
    with tarfile.open(path) as tar:
        end = tar.getmember("set/007.png").offset_data + 100
    path.write_bytes(path.read_bytes()[:end])
    source = open_source(path, labelled=False)
    assert "damaged or cut short" in source.notes[0]  # type: ignore[attr-defined]
    items = source.items(np.arange(len(source)))
    for item, image in zip(items[:7], IMAGES, strict=False):
        assert np.array_equal(np.asarray(open_image(item)), image)
    for item in items[7:]:
        with pytest.raises(ImageError):
            open_image(item)


def test_what_is_no_plain_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"\x1f\x8b" + bytes(2000))
    with pytest.raises(DataError, match="is not a plain tar file"):
        open_source(tmp_path / "a.tar", labelled=False)


def test_listing_keeps_no_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header is a kilobyte: of millions of images they would fill the memory."""
    seen: list[tarfile.TarFile] = []
    plain = tarfile.open

    def noted(*args: object, **named: object) -> tarfile.TarFile:
        seen.append(plain(*args, **named))  # type: ignore[call-overload]
        return seen[-1]

    path = write_tar(tmp_path / "a.tar", samples(range(12)))
    monkeypatch.setattr("guard.data.forms.tars.tarfile.open", noted)
    assert len(open_source(path, labelled=False)) == 12
    assert seen[0].members == []
