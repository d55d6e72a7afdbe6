"""Images of a few classes, and Stable Diffusion over a tiny pipeline, for the tests of this folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from guard.data import load
from train.generators.diffusion import DiffusionOptions, make_diffusion
from train.generators.diffusion.stable_diffusion import StableDiffusion
from train.outliers.base import PrepareContext
from train.runs.synth import untrained

CPU = torch.device("cpu")
NAMES = ("cat", "dog", "frog")
PROMPT = "A high-quality image of the {}"


def context(folder: Path, names: tuple[str, ...] = NAMES, channels: int = 3) -> PrepareContext:
    """Twelve random images in folders of these names."""
    draw = np.random.default_rng(0)
    for name in names:
        (folder / "images" / name).mkdir(parents=True, exist_ok=True)
        for i in range(4):
            pixels = draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name / f"{i}.png")
    data = load(str(folder / "images"), channels=channels)
    return PrepareContext(untrained(data, CPU), data, folder / "kept", 0, CPU)


def made(
    pipeline: Path, folder: Path, names: tuple[str, ...] = NAMES, channels: int = 3, **options: Any
) -> StableDiffusion:
    asked = DiffusionOptions(**{"model": "stable-diffusion", "pipeline": str(pipeline), "sampling_steps": 4, **options})
    model = make_diffusion(context(folder, names, channels), asked)
    assert isinstance(model, StableDiffusion)
    return model


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def overwritten(pipeline: Any, name: str, e: torch.Tensor) -> torch.Tensor:
    """The published procedure: overwrite the row of the name's first token, encode the prompt, put the row back."""
    table = pipeline.text_encoder.get_input_embeddings().weight
    token = pipeline.tokenizer(name).input_ids[1]
    kept = table[token].detach().clone()
    with torch.no_grad():
        table[token] = e
        ids = pipeline.tokenizer(PROMPT.format(name), padding="max_length", return_tensors="pt").input_ids
        hidden = pipeline.text_encoder(ids)[0]
        table[token] = kept
    return hidden


def with_config(pipeline: Path, folder: Path, file: str, **values: Any) -> Path:
    """A copy of the pipeline with other values in one of its configs."""
    shutil.copytree(pipeline, folder)
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return folder
