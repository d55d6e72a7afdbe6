"""What a diffusion model of images is here, and which there are by name.

All methods that decode with one speak this interface, so that a small model trained on the user's own images and Stable
Diffusion are exchanged by ``diffusion=``.

    encode       images -> latents z;  decode: back
    condition    class -> e, what it is called, as a vector
    noise_loss   mean (eps - eps_theta(z_t, t, e))^2,   z_t = alpha_t z + sigma_t eps
    sample       N(0, I) -- steps, guidance, e --> z --decode--> images
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal, Protocol, Self, runtime_checkable

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from guard.errors import ConfigError, UnknownNameError
from guard.record import option

from ...cache.shared_model import SharedOptions
from ...outliers.base import PrepareContext
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


class DiffusionOptions(SharedOptions):
    """Which diffusion model, how it is trained where it is one's own, and how it samples.

    Attributes:
        diffusion: "own" (trained on the user's images), "stable-diffusion", or a name given to `register_diffusion`.
        diffusion_folder: where one's own trained model is kept. None: with the run or store that it is trained for. A
            model that is found finished in a folder named here is used as it is, so that methods and runs share one,
            and so are encoders and embeddings in its conditioning space, which are kept beside it.
        diffusion_model: the StableDiffusionPipeline, a folder or a hub id, for "stable-diffusion".
        sampling_steps: denoising steps per image. None: 50 for Stable Diffusion (DDIM), 20 for one's own
            (DPM-Solver++).
        guidance: scale of classifier-free guidance; 1 is none. None: 7.5 for Stable Diffusion, 2 for one's own.
        sampling_batch: images that are denoised at once.
        prompt: what Stable Diffusion is asked for; {} is the class's name.
        conditioning: of one's own model: "token" gives e as a token to cross-attention (UNet2DConditionModel), "label"
            adds it to the time embedding (UNet2DModel).
        diffusion_epochs: passes over the images. None: 60, but as many as show it 60,000 images at least and 300,000 at
            most.
        diffusion_batch, diffusion_lr: images per step; AdamW's learning rate.
        diffusion_width: channels at full resolution; deeper levels have twice as many.
        prediction: what one's own network predicts.
        latent: whether one's own works on the latents of a small autoencoder, trained first, in place of pixels. None:
            for images above 64 pixels.
        patch: pixels per side that are folded into channels before the network. None: 1 up to 16 pixels, else 2.
    """

    kind: ClassVar = "diffusion"
    ours: ClassVar = "own"
    training: ClassVar = frozenset(
        {
            "conditioning",
            "diffusion_epochs",
            "diffusion_batch",
            "diffusion_lr",
            "diffusion_width",
            "prediction",
            "latent",
            "patch",
        }
    )

    diffusion: str = "own"
    diffusion_folder: str | None = None
    diffusion_model: str | None = None
    sampling_steps: int | None = Field(default=None, ge=1)
    guidance: float | None = Field(default=None, ge=1)
    sampling_batch: int = option(64, "Images that are denoised at once.", knob=True, ge=1)
    prompt: str = "A high-quality image of the {}"
    conditioning: Literal["token", "label"] = "token"
    diffusion_epochs: int | None = Field(default=None, ge=1)
    diffusion_batch: int = Field(default=64, ge=2)
    diffusion_lr: float = Field(default=1e-3, gt=0)
    diffusion_width: int = Field(default=64, ge=8, multiple_of=8)
    prediction: Literal["epsilon", "v_prediction"] = "v_prediction"
    latent: bool | None = None
    patch: int | None = Field(default=None, ge=1, le=8)

    @field_validator("diffusion")
    @classmethod
    def _registered(cls, name: str) -> str:
        if name not in (*OURS, *_MODELS):
            hint = "Add one with train.generators.diffusion.register_diffusion."
            raise UnknownNameError("diffusion model", name, (*OURS, *_MODELS), hint)
        return name

    @model_validator(mode="after")
    def _known_before_anything_is_trained(self) -> Self:
        if self.diffusion == "stable-diffusion":
            check_name(self.diffusion_model)
            if "{}" not in self.prompt:
                raise ConfigError(
                    f"prompt={self.prompt!r} has no place for the class's name; put {{}} where it belongs"
                )
        for name in ("diffusion_model", "prompt") if self.diffusion == "own" else ():
            value = getattr(self, name)
            if value != DiffusionOptions.model_fields[name].default:
                raise ConfigError(
                    f"diffusion='own' does not read {name}={value!r}; add diffusion='stable-diffusion', or drop it"
                )
        return self

    @property
    def is_ours(self) -> bool:
        return self.diffusion == self.ours

    @property
    def named_folder(self) -> Path | None:
        return None if self.diffusion_folder is None else Path(self.diffusion_folder)

    def settled(self) -> frozenset[str]:
        if self.diffusion == "stable-diffusion":  # it is trained already, and its folder holds what is kept beside it
            return self.training | {"diffusion_folder"}
        return frozenset({"diffusion_folder" if name == "folder" else name for name in super().settled()})


DiffusionFactory = Callable[[PrepareContext, DiffusionOptions], Diffusion]

OURS = ("own", "stable-diffusion")  # in their modules, which `make_diffusion` loads

_MODELS: dict[str, DiffusionFactory] = {}


def register_diffusion(name: str, factory: DiffusionFactory) -> None:
    """Make a model of your own available as ``diffusion=name``; a second registration replaces the first.

    Args:
        factory: called when the images are there, with the `PrepareContext` (device, training images and their class
        names, a
            folder for what takes long, seed) and the options.

    Raises:
        ConfigError: the name is one of those that come with ood-guard.
    """
    if name in OURS:
        raise ConfigError(f"{name!r} comes with ood-guard; register yours under another name")
    _MODELS[name] = factory


def make_diffusion(context: PrepareContext, options: DiffusionOptions) -> Diffusion:
    """The model that `options` name, trained or loaded.

    Raises:
        ConfigError: what the factory made does not speak the interface.
    """
    from .own import own
    from .stable_diffusion import stable_diffusion

    factories: dict[str, DiffusionFactory] = {"own": own, "stable-diffusion": stable_diffusion, **_MODELS}
    model = factories[options.diffusion](context, options)
    if not isinstance(model, Diffusion):
        wanted = [*Diffusion.__annotations__, *(name for name in vars(Diffusion) if not name.startswith("_"))]
        lacking = ", ".join(name for name in wanted if not hasattr(model, name))
        raise ConfigError(f"diffusion model {options.diffusion!r} is a {type(model).__name__} that lacks {lacking}")
    return model


def beside_model(context: PrepareContext, options: DiffusionOptions) -> PrepareContext:
    """The context whose folder is the one that `options` name for the model: for what others can share with it."""
    return replace(context, folder=options.named_folder or context.folder)
