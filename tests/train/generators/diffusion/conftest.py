"""Stable Diffusion over a tiny pipeline, and that pipeline as diffusers opens it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.train.generators.diffusion.pipelines import made
from train.generators.diffusion.stable_diffusion import StableDiffusion


@pytest.fixture(scope="module")
def model(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    return made(tiny_pipeline, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def reference(tiny_pipeline: Path) -> Any:
    """The pipeline as diffusers opens it, with nothing of ours but that its times begin at pure noise."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(tiny_pipeline)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
