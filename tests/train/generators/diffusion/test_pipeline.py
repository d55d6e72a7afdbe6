"""Opening a pipeline: what is refused, with the fix, and how one that is opened samples."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import guard
from guard.errors import ConfigError
from tests.conftest import Arrays
from tests.train.generators.diffusion.pipelines import context, made, with_config
from train.generators.diffusion import DiffusionOptions, make_diffusion
from train.generators.diffusion.stable_diffusion import StableDiffusion


def test_a_pipeline_of_another_scheduler_samples_by_ddim(tiny_pipeline: Path, tmp_path: Path) -> None:
    from diffusers import DDIMScheduler

    folder = with_config(tiny_pipeline, tmp_path / "p", "model_index.json", scheduler=["diffusers", "PNDMScheduler"])
    path = folder / "scheduler/scheduler_config.json"
    config = {**json.loads(path.read_text()), "_class_name": "PNDMScheduler", "skip_prk_steps": True}
    del config["clip_sample"]  # PNDM knows no such thing, and DDIM's default would clip latents
    path.write_text(json.dumps(config))
    model = made(folder, tmp_path)
    assert type(model.pipeline.scheduler) is DDIMScheduler
    assert model.pipeline.scheduler.config.beta_start == 0.00085
    assert not model.pipeline.scheduler.config.clip_sample


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {},
            r"option diffusion: model='stable-diffusion' needs the folder .*, or a hub id .*: diffusion={'pip",
        ),
        (
            {"pipeline": "/no/such/folder"},
            r"diffusion\.pipeline='/no/such/folder' does not exist; give the folder of a Stable",
        ),
        ({"pipeline": "nowhere"}, r"diffusion\.pipeline='nowhere' does not exist"),
        ({"pipeline": "./some/model"}, r"diffusion\.pipeline='./some/model' does not exist"),
        ({"pipeline": "a/b", "prompt": "A photo"}, "prompt='A photo' has no place for the class's name"),
        ({"model": "built-in", "pipeline": "a/b"}, "pipeline='a/b' is not read with model='built-in'; drop it, or"),
        ({"model": "built-in", "prompt": "a {}"}, "prompt='a {}' is not read with model='built-in'"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_trained(
    four: Arrays, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        guard.train(four, method="oal", out=tmp_path / "run", diffusion={"model": "stable-diffusion", **options})
    assert not (tmp_path / "run").exists()


def test_a_hub_id_without_network_is_said_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"'some/model' \(not a folder here, so .* hub id\).*without one, give"):
        make_diffusion(context(tmp_path), DiffusionOptions(model="stable-diffusion", pipeline="some/model"))


def test_other_pipelines_and_pickled_weights_are_refused(tiny_pipeline: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"no diffusion pipeline can be opened from the folder .*save_pretrained"):
        made(tmp_path / "empty", tmp_path)
    other = with_config(tiny_pipeline, tmp_path / "xl", "model_index.json", _class_name="StableDiffusionXLPipeline")
    with pytest.raises(ConfigError, match="is a StableDiffusionXLPipeline; Stable Diffusion takes a"):
        made(other, tmp_path)
    sample = with_config(tiny_pipeline, tmp_path / "x0", "scheduler/scheduler_config.json", prediction_type="sample")
    with pytest.raises(ConfigError, match="predicts 'sample'; accepted: epsilon, v_prediction"):
        made(sample, tmp_path)
    pickled = Path(shutil.copytree(tiny_pipeline, tmp_path / "pickled"))
    weights = pickled / "unet/diffusion_pytorch_model.safetensors"
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(ConfigError, match=r"no StableDiffusionPipeline can be loaded .*must be safetensors"):
        made(pickled, tmp_path)


def test_the_safety_checker_stays_off(model: StableDiffusion) -> None:
    assert model.pipeline.safety_checker is None
    assert model.pipeline.vae.use_slicing
