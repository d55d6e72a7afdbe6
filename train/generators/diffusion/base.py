"""What a diffusion model of images is here, and which there are by name.

All methods that decode with one speak this interface, so that a small model trained on the user's own images and Stable
Diffusion are exchanged by ``diffusion=``.

    encode       images -> latents z;  decode: back
    condition    class -> e, what it is called, as a vector
    noise_loss   mean (eps - eps_theta(z_t, t, e))^2,   z_t = alpha_t z + sigma_t eps
    sample       N(0, I) -- steps, guidance, e --> z --decode--> images
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal, Protocol, Self, runtime_checkable

import torch
from pydantic import field_validator, model_validator
from torch import Tensor

from guard.errors import ConfigError, UnknownNameError
from guard.record import option

from ...cache.shared_model import SharedOptions
from ...outliers.base import PrepareContext
from .class_prompts import ClassPrompt, read_class_prompts
from .pipeline import check_name


@runtime_checkable
class Diffusion(Protocol):
    """A trained text- or class-conditional diffusion model. Its weights are frozen; it lives on one device.

    Letters: N images, C classes, E the width of the conditioning space, (c, h, w) the shape of a latent.

    Attributes:
        width: E.
        latent_shape: (c, h, w).
        times: how many noise levels it was trained on; times are integers in [0, times).
        own_size: (H, W) of the images that `decode` gives; `encode` resizes to it.
    """

    width: int
    latent_shape: tuple[int, int, int]
    times: int
    own_size: tuple[int, int]

    def encode(self, images: Tensor) -> Tensor:
        """uint8 (N, H, W, channels) of any size -> latents (N, c, h, w), float32."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (N, c, h, w) -> uint8 (N, H, W, channels) of `own_size`, with the channels of the training images."""
        ...

    def condition(self, classes: Tensor) -> Tensor:
        """Classes int64 (N,), or weights float (N, C) of classes (a sum of one-hots, say) -> e (N, E), float32.

        For classes these are the anchors T(y) of the methods: the class's row of a learned table, or the input token
        embedding of its name. For weights: the weighted sum of the anchors.
        """
        ...

    def noise_loss(self, latents: Tensor, e: Tensor, classes: Tensor, *, times: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error (N,) of the predicted noise, differentiable in e.

        Args:
            latents: (N, c, h, w). e: (N, E). classes: int64 (N,), whose name e stands for in a prompt.
            times: int64 (N,). noise: (N, c, h, w), standard normal.
        """
        ...

    def latents(self, e: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
        """Denoised latents z_0 (N, c, h, w) sampled with e (N, E), which stands for classes (N,) in a prompt."""
        ...

    def sample(self, e: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
        """decode(latents(e, classes)): uint8 (N, H, W, channels) of `own_size`."""
        ...


TIMES = 1000  # noise levels of the models that come with ood-guard

SamplerName = Literal["dpm-solver++", "ddim", "plms", "ddpm"]

OURS = ("built-in", "stable-diffusion")  # `make_diffusion` knows where they are

STABLE = {"model": "stable-diffusion"}  # it is trained already
BUILT_IN = {"model": "built-in"}  # it is asked by class and not in words


class DiffusionOptions(SharedOptions):
    """Which diffusion model, how the built-in one is trained, and how images are sampled.

    Methods and runs that name one `folder` share the model in it, and the encoders and embeddings in its conditioning
    space, which are kept beside it.
    """

    kind: ClassVar = "diffusion"
    ours: ClassVar = "built-in"
    training: ClassVar = frozenset(
        {"conditioning", "epochs", "batch_size", "lr", "width", "prediction", "loss_weights", "latent", "patch"}
    )

    model: str = option(
        "built-in",
        "'built-in' (trained on your images), 'stable-diffusion', or a name given to register_diffusion.",
        common=True,
    )
    folder: str | None = option(
        None,
        "Folder of the trained built-in model, which is used as it is where it is finished, and so shared by runs; "
        "default with the run or store.",
        common=True,
    )
    pipeline: str | None = option(
        None, "StableDiffusionPipeline for 'stable-diffusion': a folder or a hub id.", unread_if=BUILT_IN, common=True
    )
    sampler: SamplerName | None = option(
        None,
        "'dpm-solver++' (the built-in model's default), 'ddim' (Stable Diffusion's), 'plms', or 'ddpm', which is "
        "ancestral: it draws noise in every step.",
    )
    sampling_steps: int | None = option(
        None,
        "Denoising steps per image, at most the model's 1,000 times; default 50 for Stable Diffusion; else 20, and all "
        "1,000 with sampler 'ddpm'.",
        ge=1,
        le=1000,
    )
    spacing: Literal["trailing", "leading"] = option(
        "trailing",
        "Which times the steps are at: from pure noise on ('trailing'), or as published for Stable Diffusion "
        "('leading'; sampling_steps must divide 1,000).",
    )
    guidance: float | None = option(
        None,
        "Scale of classifier-free guidance, 1 being none; default 7.5 for Stable Diffusion, else 2.",
        ge=1,
    )
    sampling_batch: int = option(64, "Images that are denoised at once.", ge=1, knob=True)
    prompt: str = option(
        "A high-quality image of the {}",
        "What Stable Diffusion is asked for; {} is the name of the class.",
        unread_if=BUILT_IN,
    )
    class_prompts: Mapping[str, ClassPrompt] | None = option(
        None,
        "What classes are called in prompts and which token stands for each, "
        "{'class': {'prompt': 'aquarium fish', 'token': 'fish'}}, or a JSON or CSV file of it; others go by their "
        "names.",
        unread_if=BUILT_IN,
    )
    conditioning: Literal["token", "label"] = option(
        "token",
        "'token' gives a class to cross-attention (UNet2DConditionModel), 'label' adds it to the time embedding "
        "(UNet2DModel).",
        unread_if=STABLE,
    )
    epochs: int | None = option(
        None,
        "Passes over the images; default 60, but as many as show 60,000 images at least and 300,000 at most.",
        ge=1,
        unread_if=STABLE,
    )
    batch_size: int = option(64, "Images per training step.", ge=2, unread_if=STABLE)
    lr: float = option(1e-3, "Learning rate of AdamW.", gt=0, unread_if=STABLE)
    width: int = option(
        64,
        "Channels at full resolution, a multiple of 8; deeper levels have twice as many.",
        ge=8,
        multiple_of=8,
        unread_if=STABLE,
    )
    prediction: Literal["epsilon", "v_prediction"] = option(
        "v_prediction", "What the network predicts: the noise, or v (Salimans & Ho, ICLR 2022).", unread_if=STABLE
    )
    loss_weights: Literal["min-snr", "none"] = option(
        "min-snr",
        "Weights of the errors at each time: min-SNR (Hang et al., ICCV 2023), or none, the plain loss of DDPM.",
        unread_if=STABLE,
    )
    latent: bool | None = option(
        None,
        "Whether it works on the latents of a small autoencoder, trained first, in place of pixels; default for images "
        "above 64 pixels.",
        unread_if=STABLE,
    )
    patch: int | None = option(
        None,
        "Pixels per side that are folded into channels before the network, 1 to 8; default 1 up to 16 pixels, else 2.",
        ge=1,
        le=8,
        unread_if=STABLE,
    )

    @field_validator("model")
    @classmethod
    def _registered(cls, name: str) -> str:
        if name == "own":
            raise ConfigError("diffusion model 'own' is now called 'built-in'")
        if name not in (*OURS, *_MODELS):
            hint = "Add one with train.generators.diffusion.register_diffusion."
            raise UnknownNameError("diffusion model", name, (*OURS, *_MODELS), hint)
        return name

    @field_validator("class_prompts", mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        return read_class_prompts(given)

    @model_validator(mode="after")
    def _steps_that_fit(self) -> Self:
        steps = self.sampling_steps
        if self.spacing == "leading":
            self._check_leading(TIMES if steps is None and self.sampler == "ddpm" else steps)
        if steps is None or TIMES % steps == 0:
            return self
        if self.sampler == "plms":
            raise ConfigError(
                f"sampler='plms' takes equal steps, and sampling_steps={steps} does not divide {TIMES}; give one that "
                "does, such as 50, or sampler='dpm-solver++'"
            )
        return self

    def _check_leading(self, steps: int | None) -> None:
        solver = self.sampler or ("dpm-solver++" if self.is_ours else None)
        if solver == "dpm-solver++":  # diffusers' begins strides below: at 501 of 1,000 for 500 steps
            raise ConfigError(
                "spacing='leading' would not begin near pure noise with sampler='dpm-solver++'; give sampler='ddim' or "
                "'plms', or spacing='trailing'"
            )
        if steps is not None and (steps in (1, TIMES) or TIMES % steps):
            raise ConfigError(
                f"spacing='leading' takes a number of steps between 1 and {TIMES} that divides {TIMES}, or it would "
                f"not begin near pure noise, got {steps}; give another sampling_steps, or spacing='trailing'"
            )

    @model_validator(mode="after")
    def _known_before_anything_is_trained(self) -> Self:
        if self.model == "stable-diffusion":
            check_name(self.pipeline)
            check_prompt("prompt", self.prompt)
        return self

    def settled(self) -> frozenset[str]:
        if self.model == "stable-diffusion":  # its folder holds what is kept beside it
            return self.training | {"folder"}
        return super().settled()


def check_prompt(option: str, prompt: str) -> None:
    """Raises ConfigError where the prompt has no place for the class's name."""
    if "{}" not in prompt:
        raise ConfigError(f"{option}={prompt!r} has no place for the class's name; put {{}} where it belongs")


DiffusionFactory = Callable[[PrepareContext, DiffusionOptions], Diffusion]

_MODELS: dict[str, DiffusionFactory] = {}


def register_diffusion(name: str, factory: DiffusionFactory) -> None:
    """Make a model of your own available as ``diffusion=name``; a second registration replaces the first.

    Args:
        factory: called when the images are there, with the `PrepareContext` (device, training images and their class
            names, a folder for what takes long, seed) and the options. What is made with the model is kept under its
            weights: those of a network, or of the networks and tensors among its attributes. One of which more counts
            says itself which it is, by an attribute `identity`, a text.

    Raises:
        ConfigError: the name is one of those that come with ood-guard.
    """
    if name in OURS:
        raise ConfigError(f"{name!r} comes with ood-guard; register yours under another name")
    _MODELS[name] = factory


def beside_model(context: PrepareContext, options: DiffusionOptions) -> PrepareContext:
    """The context whose folder is the one that `options` name for the model: for what others can share with it."""
    return replace(context, folder=options.named_folder or context.folder)
