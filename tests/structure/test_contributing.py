"""The examples of CONTRIBUTING.md, in a copy of the project: what it says is enough, is enough."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(python|markdown)\n(?:# |<!-- )(\S+?)(?: -->)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = [(path, text) for _, path, text in BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text())]
NEW = [path for path, _ in BLOCKS if not (ROOT / path).exists()]
COPIED = ("guard", "train", "export", "tests", "docs", "benchmarks", "pyproject.toml")

SCRIPT = """
import json, numpy as np, guard
rng = np.random.default_rng(0)
labels = np.arange(240) % 3
images = rng.integers(0, 60, (240, 16, 16, 3), dtype=np.uint8)
images[np.arange(240), :, :, labels] += 150  # red, green and blue
g = guard.train((images, labels), method="unsure", outliers="patch_shuffle", backbone="wrn10_2", epochs=2,
                batch_size=32, device="cpu")
e = guard.load(guard.export(g, "guard.onnx"), device="cpu")
asked = np.concatenate([images[:90], rng.integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)])
ours, theirs = g.predict(asked), e.predict(asked)
print(json.dumps({"method": e.manifest.method, "score": e.manifest.score, "asked": len(asked),
                  "listed": guard.list_methods("unsure") + list(guard.list_scores("margin")),
                  "flags": int((ours.is_ood == theirs.is_ood).sum()), "labels": int((ours.label == theirs.label).sum()),
                  "apart": float(abs(ours.ood_score - theirs.ood_score).max())}))
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with the examples in place: new files whole, an import at a file's end, a row below the others."""
    root = tmp_path_factory.mktemp("project")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "images/*.png"))
        else:
            shutil.copy(ROOT / name, root / name)
    for path, text in BLOCKS:
        target = root / path
        if path.endswith(".md"):
            lines = target.read_text().splitlines(keepends=True)
            first = next(i for i, line in enumerate(lines) if line.startswith("|---"))
            last = next(i for i in range(first, len(lines) + 1) if i == len(lines) or not lines[i].startswith("|"))
            target.write_text("".join([*lines[:last], text, *lines[last:]]))
        else:
            target.write_text((target.read_text() if target.exists() else "") + text)
    return root


def run(*command: str, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(cwd), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=550
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_each_part_is_one_file_one_import_one_test_and_one_row() -> None:
    tests = [path for path in NEW if path.startswith("tests/")]
    parts = [path for path in NEW if path not in tests]
    rows = [(path, text) for path, text in BLOCKS if path.endswith(".md")]
    imports = [(path, text) for path, text in BLOCKS if path.endswith("__init__.py")]
    assert parts == ["guard/scores/margin.py", "train/losses/entropy.py", "train/methods/unsure.py"]
    assert len(tests) == len(rows) == 3
    assert len(imports) == 2  # a loss is imported by the method
    assert all(text.count("\n") == 1 for _, text in (*rows, *imports))


def test_what_it_tells_to_read_exists() -> None:
    told = re.findall(
        r"`((?:guard|train|export|serving|benchmarks|tests|docs)/[\w/.]*)`", (ROOT / "CONTRIBUTING.md").read_text()
    )
    assert len(told) > 10
    assert [path for path in told if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("path", [path for path, _ in BLOCKS if path in NEW])
def test_an_example_is_short(path: str) -> None:
    """At most 15 lines of code: statements and expressions, without docstrings and blank lines."""
    text = dict(BLOCKS)[path]
    tree = ast.parse(text)
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
    docstrings = sum(len((ast.get_docstring(node, clean=False) or "").splitlines()) for node in nodes)
    assert sum(bool(line.strip()) for line in text.splitlines()) - docstrings <= 15


def test_the_contract_suites_find_the_new_parts_and_pass(copy: Path) -> None:
    found = "margin or EntropyLoss or unsure or every_loss_of_the_package or page"
    shown = run(
        *("-m", "pytest", "-v", "-rN", "-p", "no:cacheprovider"),
        *("tests/contract", "tests/guard/scores/test_scores_page.py"),
        *(path for path in NEW if path.startswith("tests/")),
        *("-k", f"({found} or test_margin or test_entropy) and not every_head"),
        cwd=copy,
    )
    passed = re.findall(r"::(.+?) PASSED", shown)
    for part, least in (("margin", 12), ("EntropyLoss", 5), ("unsure", 8)):
        assert sum(f"[{part}" in name or f"{part}]" in name for name in passed) >= least, shown


def test_a_guard_of_the_new_parts_is_exported_and_decides_alike(copy: Path) -> None:
    answer = json.loads(run("-c", SCRIPT, cwd=copy).splitlines()[-1])
    assert (answer["method"], answer["score"], answer["listed"]) == ("unsure", "margin", ["unsure", "margin"])
    assert answer["flags"] == answer["labels"] == answer["asked"] == 150
    assert answer["apart"] < 1e-3
