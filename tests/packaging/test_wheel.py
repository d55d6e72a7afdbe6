"""The built wheel, used from another directory: everything that is needed and nothing that is not."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import guard
from tests.packaging.conftest import PACKAGES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's contents and its `guard` script; the dependencies are this environment's."""
    target = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target, wheel],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return target


def _run(*command: str | Path, site: Path, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    expected = {
        path.relative_to(ROOT).as_posix()
        for name in PACKAGES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert {"guard/py.typed", "serving/page/index.html"} <= held
    assert held == expected


def test_the_wheel_names_its_licence_version_and_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (archive.read(n).decode() for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        (scripts,) = (archive.read(n).decode() for n in archive.namelist() if n.endswith("entry_points.txt"))
        (licence,) = (archive.read(n).decode() for n in archive.namelist() if n.endswith("licenses/LICENSE"))
    assert f"\nVersion: {guard.__version__}\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert "guard = guard.cli:main" in scripts
    assert "Apache License" in licence


def test_the_base_needs_neither_torch_nor_a_choice_of_onnxruntime(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (archive.read(n).decode() for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    names = {line.removeprefix("Requires-Dist: ").split(">")[0].split("<")[0].strip() for line in required}
    assert names == {"numpy", "pydantic", "pydantic-settings", "pillow", "typer", "rich"}


def test_the_installed_packages_are_used_from_another_directory(installed: Path, tmp_path: Path) -> None:
    code = (
        "import guard, train, export, serving, pathlib, sys\n"
        "for module in (guard, train, export, serving):\n"
        f"    assert pathlib.Path(module.__file__).is_relative_to({str(installed)!r}), module.__file__\n"
        "from guard._siblings import package_name\n"
        "print(package_name('train'), package_name('export'), *guard.list_methods())"
    )
    printed = _run(sys.executable, "-c", code, site=installed, cwd=tmp_path)
    assert printed == f"train export {' '.join(guard.list_methods())}"


def test_the_installed_command_answers(installed: Path, tmp_path: Path) -> None:
    script = installed / "bin" / "guard"
    assert _run(script, "--version", site=installed, cwd=tmp_path) == f"ood-guard {guard.__version__}"
    assert "vos" in _run(script, "methods", site=installed, cwd=tmp_path)


def test_a_users_train_py_does_not_shadow_the_installed_one(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "import guard\nfrom guard._siblings import package_name\n"
        "assert 'plain' in guard.list_methods()\nprint(package_name('train'))"
    )
    assert _run(sys.executable, "train.py", site=installed, cwd=tmp_path) == "guard._train"
