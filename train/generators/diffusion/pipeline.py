"""Opening a StableDiffusionPipeline: a folder that diffusers' `save_pretrained` wrote, or a hub id."""

from __future__ import annotations

import contextlib
import re
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from guard.errors import ConfigError, MissingExtraError
from guard.record import spelled

from ...cache.keyed import LONG, digest, weights_digest
from ...pretrained import impatient

KIND = "StableDiffusionPipeline"
EXAMPLE = "CompVis/stable-diffusion-v1-4"
PREDICTIONS = ("epsilon", "v_prediction")
NETWORKS = "unet", "text_encoder", "vae"
NOISE = "prediction_type", "num_train_timesteps", "beta_schedule", "beta_start", "beta_end"

_IDENTITIES: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def open_pipeline(name: str | None, device: torch.device) -> Any:
    """The pipeline on `device`, frozen: half precision on a GPU, no safety checker, the VAE image by image.

    Raises:
        ConfigError: as `check_name`; no such hub id; another kind of pipeline; no safetensors.
        MissingExtraError: diffusers or transformers is not installed.
    """
    name = check_name(name)
    diffusers = _diffusers()
    _check_kind(diffusers, name)
    try:
        with _without_bars(diffusers), impatient(not Path(name).is_dir()):
            pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
                name,
                dtype=torch.float16 if device.type == "cuda" else torch.float32,
                use_safetensors=True,  # no pickle is read
                safety_checker=None,  # it blackens what it suspects, which training would take for an outlier
                feature_extractor=None,
                image_encoder=None,
                requires_safety_checker=False,
            )
    except Exception as error:  # diffusers raises OSError, ValueError and more, each with its own sentence
        raise ConfigError(
            f"no {KIND} can be loaded from diffusion.pipeline={name!r}: {_first_sentence(error)}. Its weights must be "
            "safetensors (pipeline.save_pretrained(folder) writes them)"
        ) from error
    # Stable Diffusion by DDIM, whatever scheduler it came with, whose config need not say so: latents have no range
    published = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config, **published)
    prediction = pipeline.scheduler.config.prediction_type
    if prediction not in PREDICTIONS:
        raise ConfigError(f"{name} predicts {prediction!r}; accepted: {', '.join(PREDICTIONS)}")
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.eval().requires_grad_(False)
    pipeline.vae.enable_slicing()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def published_form(name: str | None) -> tuple[int, tuple[int, int]] | None:
    """The width of a pipeline's token embeddings, and (H, W) of its images, by its configuration files alone.

    None where they cannot be read: opening it says why.
    """
    name, diffusers = check_name(name), _diffusers()
    try:
        with _without_bars(diffusers):
            unet = diffusers.UNet2DConditionModel.load_config(name, subfolder="unet")
            vae = diffusers.AutoencoderKL.load_config(name, subfolder="vae")
        size, factor = unet["sample_size"], 2 ** (len(vae["block_out_channels"]) - 1)
        height, width = (size, size) if isinstance(size, int) else size
        return int(unet["cross_attention_dim"]), (factor * height, factor * width)
    except Exception:  # of diffusers and the hub, each with its own
        return None


def pipeline_identity(pipeline: Any) -> str:
    """Which pipeline it is: the weights of its networks, and the noise that they were trained on.

    Computed once for each. They are taken in half precision, as a GPU has them, so that every machine says the same.
    """
    if pipeline not in _IDENTITIES:
        parts = {name: weights_digest(getattr(pipeline, name), torch.float16) for name in NETWORKS}
        noise = {name: pipeline.scheduler.config.get(name) for name in NOISE}
        _IDENTITIES[pipeline] = digest({**parts, **noise}, LONG)
    return _IDENTITIES[pipeline]


def check_name(name: str | None) -> str:
    """The name of a pipeline that may be there; nothing is opened.

    Raises:
        ConfigError: no name, or neither a folder nor what a hub id looks like.
    """
    if not name:
        raise ConfigError(
            f"model='stable-diffusion' needs the folder of a {KIND} (as save_pretrained writes it), or a hub id "
            f"such as {EXAMPLE!r}: {spelled('diffusion.pipeline')}; or use model='built-in'"
        )
    path = Path(name)
    if not path.is_dir() and (path.exists() or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name)):
        found = "is not a folder" if path.exists() else "does not exist"
        raise ConfigError(
            f"diffusion.pipeline={name!r} {found}; give the folder of a {KIND}, or a hub id like {EXAMPLE!r}"
        )
    return name


def _check_kind(diffusers: Any, name: str) -> None:
    if Path(name).is_dir():
        where, fix = f"the folder {name}", "give the folder that pipeline.save_pretrained(folder) wrote"
    else:
        where = f"{name!r} (not a folder here, so taken for a hub id)"
        fix = "check the id and the network; without one, give the folder of a pipeline downloaded elsewhere"
    try:
        config = diffusers.DiffusionPipeline.load_config(name)
    except Exception as error:
        raise ConfigError(
            f"no diffusion pipeline can be opened from {where}: {_first_sentence(error)}; {fix}"
        ) from error
    kind = config.get("_class_name") if isinstance(config, dict) else None
    if kind != KIND:
        raise ConfigError(f"diffusion.pipeline={name!r} is a {kind}; Stable Diffusion takes a {KIND}")


@contextlib.contextmanager
def _without_bars(diffusers: Any) -> Iterator[None]:
    """One line per part, drawn over the progress of the training, says nothing."""
    import transformers

    loggings = [diffusers.utils.logging, transformers.utils.logging]
    shown = [logging for logging in loggings if logging.is_progress_bar_enabled()]
    for logging in shown:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        for logging in shown:
            logging.enable_progress_bar()


def _first_sentence(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return re.split(r"(?<=[a-z)'\"])\. ", text, maxsplit=1)[0].rstrip(".")[:300]


def _diffusers() -> Any:
    try:
        import diffusers
        import transformers  # noqa: F401  (the text encoder's)
    except ImportError as error:
        raise MissingExtraError("diffusers, which Stable Diffusion runs on,", "diffusion") from error
    return diffusers
