"""A user's own train.py, export.py or train/ beside their script never answers for ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import guard
from guard import _siblings

ROOT = Path(__file__).parents[2]

SCRIPT = """
import guard
from guard._siblings import package_name, sibling

if __name__ == "__main__":
    assert "plain" in guard.list_methods("pl*")
    assert sibling("export").__path__[0] == {export!r}
    try:
        guard.train("digits", method="no-such-method")
    except guard.errors.UnknownNameError as error:
        assert "no-such-method" in str(error)
    else:
        raise SystemExit("guard.train did not reach our train.runs.train")
    print(package_name("train"), package_name("export"))
"""


def _run(*command: str, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("command", [("train.py",), ("-m", "train")], ids=["python train.py", "python -m train"])
def test_a_script_named_train_calls_our_train(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "train.py").write_text(SCRIPT.format(export=str(ROOT / "export")))
    assert _run(*command, cwd=tmp_path) == "guard._train export"


@pytest.mark.parametrize("command", [("export.py",), ("-m", "export")], ids=["python export.py", "python -m export"])
def test_a_script_named_export_reaches_our_export(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "export.py").write_text(SCRIPT.format(export=str(ROOT / "export")))
    assert _run(*command, cwd=tmp_path) == "train guard._export"


def test_both_beside_a_third_script_are_not_executed(tmp_path: Path) -> None:
    for name in ("train.py", "export.py"):
        (tmp_path / name).write_text("raise SystemExit('the user script was executed')")
    (tmp_path / "main.py").write_text(SCRIPT.format(export=str(ROOT / "export")))
    assert _run("main.py", cwd=tmp_path) == "guard._train guard._export"


def test_a_users_train_package_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "__init__.py").write_text("WHOSE = 'the user'")
    script = SCRIPT.format(export=str(ROOT / "export")) + "    import train; assert train.WHOSE == 'the user'\n"
    (tmp_path / "main.py").write_text(script)
    assert _run("main.py", cwd=tmp_path) == "guard._train export"


def test_from_a_neutral_folder_ours_keep_their_names(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(SCRIPT.format(export=str(ROOT / "export")))
    assert _run("main.py", cwd=tmp_path) == "train export"


def test_a_module_without_a_spec_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """`importlib.util.find_spec` raises ValueError for it; `python train.py` puts one into sys.modules."""
    module = type(sys)("train")
    module.__spec__ = None
    monkeypatch.setitem(sys.modules, "train", module)
    assert _siblings.package_name.__wrapped__("train") == "guard._train"


def test_the_answer_is_the_same_for_the_life_of_a_process() -> None:
    assert _siblings.package_name("train") is _siblings.package_name("train")
    assert guard.list_methods.__module__ == "guard.api.listing"
