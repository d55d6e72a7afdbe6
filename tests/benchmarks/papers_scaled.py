"""Files of benchmarks/papers at a scale for tests: their own methods, options and scores on tiny images, with tiny
models in the place of published ones and one epoch of everything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests import toy_diffusion  # noqa: F401  (registers a diffusion model)

PAPERS = Path(__file__).parents[2] / "benchmarks" / "papers"
FILES = sorted(path.stem for path in PAPERS.glob("*.yaml"))
CLASSES = 3
LETTERS, NOISE, SHUFFLED = "letters", "gaussian_noise", "patch_shuffle"

ONE = "epochs", "tune_epochs", "iterations", "repeats"
SMALL = {
    "store_size": 12,
    "count": 12,
    "num_latents": 6,
    "n_noise": 20,
    "pairs": 2,
    "sampling_steps": 2,
    "batch_size": 16,
    "hidden": 8,
    "queue": 8,
    "draws": 50,
    "keep": 2,
    "pick": 4,
    "width": 16,
}
MORE: dict[str, dict[str, Any]] = {"acet": {"steps": 1}}  # of methods whose defaults take long
NETWORKS = {"encoder": "wrn10_2", "teacher": "wrn10_2"}
GONE = {"pretrained", "class_prompts", "crop_pct", "resize_via", "spacing", "calibration", "test", "image_size"}


def keys_of(name: str) -> dict[str, Any]:
    """A file of benchmarks/papers as it is written."""
    found: dict[str, Any] = yaml.safe_load((PAPERS / f"{name}.yaml").read_text(encoding="utf-8"))
    return found


def scaled_down(name: str, pipeline: Path, out: Path) -> dict[str, Any]:
    """The same methods on digits of 16 pixels.

    Args:
        pipeline: a tiny Stable Diffusion.
    """
    keys = keys_of(name)
    names = [*keys["ood"].get("near", {}), *keys["ood"].get("far", {})]
    training = {k: v for k, v in keys["training"].items() if k not in GONE}
    shifted = dict.fromkeys(keys["data"].get("shifted", {}), "digits:0-1")
    return {
        **{k: v for k, v in keys.items() if k not in ("root", "only", "needs", "backbones", "max_images")},
        "data": {"train": f"digits:0-{CLASSES - 1}", "shifted": shifted},
        "ood": {"far": {n: NOISE if n == NOISE else LETTERS for n in names}},
        "published": [_of_any_backbone(table) for table in keys["published"]],
        "backbones": ["wrn10_2"],
        "epochs": 1,
        "seeds": [0],
        "training": {**_small(training, pipeline), "image_size": 16, "calibration": 60, "test": 60, "device": "cpu"},
        "stores": _small(keys.get("stores", {}), pipeline),
        "methods": {name: _small(told or {}, pipeline) | MORE.get(name, {}) for name, told in keys["methods"].items()},
        "max_images": 30,
        "out": str(out),
    }  # fmt: skip


def _of_any_backbone(table: Mapping[str, Any]) -> dict[str, Any]:
    """A published table beside whose numbers those of the tests' network may stand."""
    rows = [{key: value for key, value in row.items() if key != "backbone"} for row in table["rows"]]
    return {**{key: value for key, value in table.items() if key != "backbone"}, "rows": rows}


def _small(value: Any, pipeline: Path, above: str = "") -> Any:
    """Every option that says how much, at its least; what names weights that are not here, by what the tests have."""
    if isinstance(value, list):
        return value
    if not isinstance(value, Mapping):
        return value
    made = {k: _one(k, v, pipeline, above) for k, v in value.items() if k not in GONE}
    if above in NETWORKS:
        made["backbone" if above == "encoder" else "model"] = NETWORKS[above]
    if above == "diffusion" and made.get("model") == "stable-diffusion":
        made["pipeline"] = str(pipeline)
    if above == "pair":
        return {"epochs": 1, "width": 4, "latent": 8, "batch_size": 16}
    if isinstance(value.get("outliers"), str) and not value["outliers"].startswith("store:"):
        made["outliers"] = SHUFFLED
    return made


def _one(name: str, value: Any, pipeline: Path, above: str) -> Any:
    if isinstance(value, Mapping):
        return _small(value, pipeline, name)
    if name in ONE:
        return 1
    if name in SMALL and isinstance(value, int) and not isinstance(value, bool):
        return min(value, SMALL[name])
    if name in ("k", "select", "class_size") and above == "boundary":
        return {"k": 10, "select": 8, "class_size": 20}[name]
    return value
