"""What is not imported before it is needed, seen from a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import guard
from guard.artefact.files import write_onnx
from tests.serving.conftest import colour_graph, colour_manifest

ROOT = Path(__file__).parents[2]
HEAVY = (
    *("torch", "torchvision", "timm", "diffusers", "transformers", "datasets", "accelerate", "ray", "faiss"),
    *("onnx", "onnxruntime", "pyarrow", "sklearn", "scipy", "matplotlib", "bentoml"),
)
NEED_TORCH = ("guard.graph.", "guard.heads.", "guard.scores.", "guard.runtimes.torch_module")
SIBLINGS = ("train", "export", "serving", "guard._train", "guard._export")


def _loaded_by(code: str) -> set[str]:
    """Which of the heavy packages and siblings are in sys.modules after `code`."""
    watched = [*HEAVY, *SIBLINGS]
    script = f"import sys\n{code}\nimport json; print(json.dumps([n for n in {watched!r} if n in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def _command(*arguments: str) -> str:
    return (
        f"from guard.cli import main\ntry:\n    main({arguments!r})\nexcept SystemExit as end:\n    assert not end.code"
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lazy") / "guard.onnx"
    write_onnx(path, colour_graph(), colour_manifest())
    return path


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lazy") / "red.png"
    Image.new("RGB", (8, 8), (255, 0, 0)).save(path)
    return path


def test_import_guard_loads_nothing_heavy() -> None:
    assert _loaded_by("import guard") == set()


def test_every_module_of_the_runtime_imports_without_heavy_packages() -> None:
    names = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / "guard").rglob("*.py")]
    modules = [".".join(name.parts) for name in names if name.name not in ("__init__", "__main__")]
    light = [module for module in modules if not module.startswith(NEED_TORCH)]
    assert len(light) > 60
    assert _loaded_by("\n".join(f"import {module}" for module in light)) == set()


def test_import_train_loads_torch_alone() -> None:
    """torchvision, which imports torch's compiler, doubles the start of every command that trains."""
    assert _loaded_by("import train") - {*SIBLINGS} == {"torch"}


def test_an_onnx_prediction_loads_onnxruntime_and_nothing_else(model: Path, image: Path) -> None:
    code = f"import guard; v = guard.load({str(model)!r}, device='cpu').predict({str(image)!r}); assert len(v) == 1"
    assert _loaded_by(code) == {"onnxruntime"}


def test_a_trained_and_exported_guard_predicts_without_torch(
    exported: Callable[[str], Path], four: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    """The same answers in a process that has neither torch nor train, and can calibrate and save again."""
    np.save(tmp_path / "images.npy", four[0][:40])
    code = f"""
import numpy as np, guard
images = np.load({str(tmp_path / "images.npy")!r})
g = guard.load({str(exported("plain"))!r}, device="cpu")
np.save({str(tmp_path / "scores.npy")!r}, g.predict(images).ood_score)
g.calibrate(images, alpha=0.1).save({str(tmp_path / "again.onnx")!r})
"""
    assert _loaded_by(code) == {"onnxruntime"}
    here = guard.load(exported("plain"), device="cpu").predict(four[0][:40]).ood_score
    np.testing.assert_array_equal(np.load(tmp_path / "scores.npy"), here)
    assert guard.load(tmp_path / "again.onnx", device="cpu").manifest.calibration.alpha == 0.1


def test_help_loads_nothing_heavy() -> None:
    assert _loaded_by(_command("train", "--help")) == set()


def test_guard_predict_on_an_onnx_file_loads_onnxruntime_and_nothing_else(model: Path, image: Path) -> None:
    assert _loaded_by(_command("predict", str(model), str(image))) == {"onnxruntime"}


def test_the_check_can_fail() -> None:
    assert _loaded_by("import torch") >= {"torch"}
