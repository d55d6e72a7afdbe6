"""Which diffusion model it is: a matter of its weights, and not of its folder, its precision or its prompt."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.train.generators.diffusion.pipelines import made
from tests.train.outliers.conditioning.solvable_diffusion import solvable
from train.cache.keyed import model_identity
from train.generators.diffusion import pipeline as pipelines
from train.generators.diffusion.pipeline import open_pipeline, pipeline_identity

CPU = torch.device("cpu")


def test_it_is_of_the_weights_of_a_module_and_of_the_tensors_of_anything_else() -> None:
    torch.manual_seed(0)
    module: Any = nn.Linear(3, 2)
    before = model_identity(module)
    assert model_identity(module) == before
    with torch.no_grad():
        module.bias[0] += 1e-6
    assert model_identity(module) != before
    one, other = solvable(), solvable()
    one.calls = 7  # no weight
    assert model_identity(one) == model_identity(other)
    other.table = other.table.clone()
    other.table[0, 0] += 1e-6
    assert model_identity(one) != model_identity(other)


def test_it_is_the_same_wherever_it_lies_and_however_it_is_loaded(tiny_pipeline: Path, tmp_path: Path) -> None:
    here = pipeline_identity(open_pipeline(str(tiny_pipeline), CPU))
    moved = tmp_path / "elsewhere"
    shutil.copytree(tiny_pipeline, moved)
    assert pipeline_identity(open_pipeline(str(moved), CPU)) == here
    assert pipeline_identity(open_pipeline(str(moved), CPU).to(dtype=torch.float16)) == here  # as on a GPU


@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
def test_one_with_other_weights_is_another(part: str, tiny_pipeline: Path) -> None:
    changed = open_pipeline(str(tiny_pipeline), CPU)
    with torch.no_grad():
        next(getattr(changed, part).parameters()).view(-1)[0] += 0.5
    assert pipeline_identity(changed) != pipeline_identity(open_pipeline(str(tiny_pipeline), CPU))


def test_it_is_computed_once_and_does_not_depend_on_the_prompt(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made(tiny_pipeline, tmp_path)
    first = model_identity(model)
    monkeypatch.setattr(pipelines, "weights_digest", lambda *_: pytest.fail("again"))
    assert model_identity(model) == first
    monkeypatch.undo()
    assert model_identity(made(tiny_pipeline, tmp_path, prompt="A {}", sampling_steps=2)) == first
