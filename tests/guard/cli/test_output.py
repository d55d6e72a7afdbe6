"""What is printed reaches whoever reads it, whatever the terminal can show."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def guard(*words: object, encoding: str, stdout: str | None = None) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "guard", *map(str, words)]
    with open(stdout or os.devnull, "wb") as file:
        where = subprocess.PIPE if stdout is None else file
        return subprocess.run(command, env=environment, stdout=where, stderr=subprocess.PIPE, timeout=120)


@pytest.fixture
def odd(images: Path, tmp_path: Path) -> Path:
    """A folder with a file whose name is no text, and one that few terminals can show."""
    for name in (b"caf\xe9.png", "é日本🖼.png".encode()):
        shutil.copy(images / "red.png", os.fsencode(tmp_path) + b"/" + name)
    return tmp_path


@pytest.mark.parametrize("encoding", ["utf-8:strict", "utf-8:surrogateescape", "latin-1:strict", "ascii:strict"])
def test_names_of_any_kind_are_printed_and_json_stays_json(model: Path, odd: Path, encoding: str) -> None:
    shown = guard("predict", model, odd, encoding=encoding)
    assert shown.returncode == 0, shown.stderr
    assert b"0 of 2 flagged" in shown.stdout
    read = guard("predict", model, odd, "--json", encoding=encoding)
    assert read.returncode == 0, read.stderr
    names = {Path(answer["image"]).name for answer in json.loads(read.stdout.decode(encoding.partition(":")[0]))}
    assert names == {"caf\udce9.png", "é日本🖼.png"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_one_sentence() -> None:
    ended = guard("methods", encoding="utf-8", stdout="/dev/full")
    assert ended.returncode == 2
    assert ended.stderr.decode() == "error: standard output cannot be written to (no space left on device)\n"
