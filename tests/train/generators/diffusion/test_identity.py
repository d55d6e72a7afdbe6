"""A model's digest: of its weights, whatever they are in, and of nothing that a machine decides."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from tests.train.outliers.conditioning.solvable_diffusion import solvable
from train.generators.diffusion.identity import weights_digest
from train.generators.diffusion.stable_diffusion import StableDiffusion


def test_it_is_of_the_weights_of_a_module_and_of_the_tensors_of_anything_else() -> None:
    torch.manual_seed(0)
    module: Any = nn.Linear(3, 2)
    before = weights_digest(module)
    assert weights_digest(module) == before
    with torch.no_grad():
        module.bias[0] += 1e-6
    assert weights_digest(module) != before
    one, other = solvable(), solvable()
    one.calls = 7  # no weight
    assert weights_digest(one) == weights_digest(other)
    other.table = other.table.clone()
    other.table[0, 0] += 1e-6
    assert weights_digest(one) != weights_digest(other)


def test_a_pipeline_is_the_same_in_either_precision(model: StableDiffusion) -> None:
    whole = {"unet": nn.Linear(3, 2), "tokenizer": "words"}
    half = {"unet": nn.Linear(3, 2).half(), "tokenizer": "words"}
    half["unet"].load_state_dict(whole["unet"].state_dict())  # type: ignore[attr-defined]
    digests = {weights_digest(SimpleNamespace(pipeline=SimpleNamespace(components=c))) for c in (whole, half)}  # type: ignore[arg-type]
    assert len(digests) == 1
    assert weights_digest(model) not in digests
