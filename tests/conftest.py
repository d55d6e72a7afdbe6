"""Small images and small trained guards that many tests share; each is made once, when first asked for."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import once, published

SIDE = 16

Arrays = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Images of 16 pixels gain nothing from a second thread, and on a busy machine its spinning costs much."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _one_registry() -> None:
    """torch lists all operators anew in every export, a third of its time: here once."""
    if "torch" in sys.modules:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        listing = ONNXRegistry.__dict__["from_torchlib"].__func__
        ONNXRegistry.from_torchlib = classmethod(functools.cache(listing))  # type: ignore[assignment,method-assign]


@pytest.fixture(scope="session", autouse=True)
def _no_width() -> None:
    """A width of the terminal that runs the tests would be that of tables for a pipe."""
    os.environ.pop("COLUMNS", None)


@pytest.fixture(scope="session", autouse=True)
def _toy_diffusion() -> None:
    """``diffusion="toy"`` of the recipes, for tests that train."""
    if "train" in sys.modules or "torch" in sys.modules:
        import tests.toy_diffusion  # noqa: F401


@pytest.fixture(scope="session", autouse=True)
def _published_teacher() -> Iterator[None]:
    """`published.FOLDER`, for tests that train."""
    if "train" in sys.modules or "torch" in sys.modules:
        published.write(published.FOLDER)
    yield
    shutil.rmtree(published.FOLDER, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _made_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What `once` keeps lies beside the folders of the workers."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        once.folder = tmp_path_factory.getbasetemp().parent


@pytest.fixture(scope="session")
def digits() -> Callable[[str], Arrays]:
    """digits("0-3") -> (uint8 (N, 16, 16, 3), int64 (N,)): scikit-learn's digits at half the package's size."""
    made: dict[str, Arrays] = {}

    def cut(classes: str) -> Arrays:
        if classes not in made:
            from guard.data import load

            data = load(f"digits:{classes}")
            assert data.array is not None
            assert data.labels is not None
            made[classes] = np.ascontiguousarray(data.array[:, ::2, ::2]), np.array(data.labels)
        return made[classes]

    return cut


@pytest.fixture(scope="session")
def four(digits: Callable[[str], Arrays]) -> Arrays:
    """100 images each of the digits 0-3, in turn."""
    images, labels = digits("0-3")
    rows = np.stack([np.flatnonzero(labels == c)[:100] for c in range(4)], 1).ravel()
    return images[rows], labels[rows]


@pytest.fixture(scope="session")
def noise() -> np.ndarray:
    """uint8 (64, 16, 16, 3) noise."""
    return np.random.default_rng(0).integers(0, 256, (64, SIDE, SIDE, 3), dtype=np.uint8)


TINY: dict[str, Any] = {"backbone": "wrn10_2", "epochs": 4, "batch_size": 32, "device": "cpu", "augment": "none"}

PAIR: dict[str, Any] = {"pair": {"epochs": 1, "width": 4, "latent": 8, "batch_size": 32}}  # encoder and generator
HEAD: dict[str, Any] = {"store_size": 64, "hidden": 16, "tune_epochs": 2}  # a rejection network on a store

TAUGHT: dict[str, Any] = {  # a teacher, and a diffusion model that costs nothing (`tests.toy_diffusion`)
    "teacher": "wrn10_2",
    "diffusion": "toy",
    "boundary": {"n_noise": 20, "repeats": 1},
    "num_latents": 20,
    "tune_epochs": 2,
}

DIFFUSION: dict[str, Any] = {"epochs": 1, "width": 8, "patch": 2, "sampling_steps": 2}
ENCODER: dict[str, Any] = {"backbone": "wrn10_2", "epochs": 1}
DECODED: dict[str, Any] = {  # the built-in diffusion model and an encoder, trained for a moment
    "store_size": 64,
    "diffusion": DIFFUSION,
    "encoder": ENCODER,
}

RECIPES: dict[str, dict[str, Any]] = {
    "plain": {"method": "plain", "score": "energy"},
    "cosine": {"method": "plain", "score": "cosine", "lr": 0.02},
    "c_plus_1": {"method": "plain", "score": "reject_class"},
    "vos": {"method": "vos", "score": "energy_logistic", "start": 0.25, "queue": 20},
    "gcos": {"method": "gcos", "start": 0.25, "queue": 20},
    "npos": {
        "method": "npos",
        "lr": 0.01,
        "head_options": {"momentum": 0.9},
        "start": 0.25,
        "queue": 40,
        "k": 10,
        "select": 8,
        "n_noise": 60,
        "keep": 20,
    },
    "phase_mix": {"method": "phase_mix"},
    "recommended": {"method": "recommended"},
    "rejection": {"method": "rejection", "hidden": 32, "tune_epochs": 3, "outliers": "patch_shuffle"},
    "rejection-map": {
        "method": "rejection",
        "hidden": 32,
        "tune_epochs": 3,
        "tap": "map",
        "outliers": "patch_shuffle",
    },
    "rotpred": {"method": "rotpred", "ratio": 1.0},
    "tgt": {"method": "tgt", "lr": 0.02, "teacher": str(published.FOLDER)},
    "oe": {"method": "oe", "outliers": "patch_shuffle", "ratio": 1.0},
    "mim": {"method": "mim", "k": 3},
    "energy_ft": {"method": "energy_ft", "outliers": "patch_shuffle", "ratio": 1.0, "tune_epochs": 2},
    "ceda": {"method": "ceda", "lr": 0.02},
    "acet": {"method": "acet", "steps": 2, "lr": 0.02},
    "ascood": {"method": "ascood", "lr": 0.02},
    "gan": {"method": "gan", "gan": {"width": 4, "latent": 8}},
    "atol": {"method": "atol", "gan": {"width": 4, "latent": 16, "epochs": 1}, "tune_epochs": 1, "ratio": 1.0},
    "cmg_s": {"method": "cmg_s", "cvae": {"width": 4, "latent": 8, "epochs": 1}, "tune_epochs": 2, "pseudo": 32},
    "mlm": {"method": "mlm", **HEAD, **PAIR},
    "dmr": {"method": "dmr", **HEAD, **PAIR},
    "dmr_mlm": {"method": "dmr_mlm", **HEAD, **PAIR, "variant": "code"},
    "dmr_kirby": {"method": "dmr_kirby", **HEAD, **PAIR},
    "kirby": {"method": "kirby", **HEAD, "head_kind": "multiclass", "ratio": 0.5},
    "fodfom": {
        "method": "fodfom",
        "diffusion": "toy",
        "encoder": ENCODER,
        "store_size": 48,
        "tune_epochs": 1,
        "blurred": {"max_area": 1.0},
    },
    "oal": {"method": "oal", **TAUGHT},
    "ncis": {
        "method": "ncis",
        "diffusion": "toy",
        "store_size": 48,
        "embed": {"pairs": 4},
        "invariants": {"epochs": 4},
    },
    "label_mixup": {
        "method": "label_mixup",
        "store_size": 24,
        "diffusion": DIFFUSION,
        "head": "arcface",
        "lr": 0.02,
        "epochs": 8,  # after 4 it is right for 0.60 and 0.61 with two seeds, after 8 for 1.00 and 0.86
    },
    "dream_ood": {"method": "dream_ood", "weight": 0.5, "lr": 0.05, **DECODED},
    "dream_id": {"method": "dream_id", **DECODED},
    "bood": {"method": "bood", "weight": 0.5, "lr": 0.05, **DECODED},
    "cmg_e": {"method": "cmg_e", "cvae": {"width": 4, "latent": 8, "epochs": 1}, "tune_epochs": 2, "pseudo": 32},
}


@pytest.fixture(scope="session")
def trained(four: Arrays) -> Callable[[str], Any]:
    """trained(name of RECIPES) -> a `Guard` trained on `four` for four epochs."""
    import guard

    made: dict[str, Any] = {}

    def train(name: str) -> Any:
        if name not in made:
            made[name] = guard.train(four, **{**TINY, **RECIPES[name]})
        return made[name]

    return train


@pytest.fixture(scope="session")
def exported(trained: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """exported(name of RECIPES) -> its ONNX file."""
    import guard

    folder = tmp_path_factory.mktemp("exported")
    made: dict[str, Path] = {}

    def export(name: str) -> Path:
        if name not in made:
            made[name] = guard.export(trained(name), folder / f"{name}.onnx")
        return made[name]

    return export


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole StableDiffusionPipeline of tiny, untrained parts, for ``diffusion="stable-diffusion"``."""
    from tests.tiny_stable_diffusion import save_tiny_pipeline

    return save_tiny_pipeline(tmp_path_factory.mktemp("stable_diffusion"))


@pytest.fixture(scope="session")
def tiny() -> dict[str, Any]:
    """The arguments of guard.train that make it short."""
    return dict(TINY)
